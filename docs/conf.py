"""The documentation site: ``make docs`` builds it from docs/, configs/, docstrings and cards, without a network."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "extensions")]

from qra import __version__  # noqa: E402

project = "qra"
copyright = "the authors of qra, MIT licence"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_design",
    "mathml",
    "generated",
    "names",
    "tables",
]
exclude_patterns = ["_build", "results/*/tables", "extensions", "generated/parts"]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
myst_update_mathjax = False
nb_execution_mode = "off"  # shown as stored, by tests/notebooks.py
nb_render_markdown_format = "myst"  # with tables
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # they would come from elsewhere

autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_display_short_literal_types = True
maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
add_module_names = False
toc_object_entries_show_parents = "hide"

nitpicky = True
nitpick_ignore_regex = [  # what other projects document: their inventories would have to be fetched
    (r"py:.*", r"(torch|torchvision|lightning|numpy|matplotlib|np|nn|fx|typing|collections|pathlib|argparse)\b.*"),
    (
        r"py:.*",
        r"(Tensor|ndarray|Path|Callable|Mapping|Sequence|Iterable|Iterator|Generator|Any|Self|Optimizer|Figure)",
    ),
    (r"py:.*", r"'.*'|(list\[)?dict\[str|(abc|enum|dataclasses)\..*"),
]

html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"qra {__version__}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["results/paper-small/report.html"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
smartquotes = False
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"
