"""Tables: an interval, such as ``[1.1, 3.6]``, and what counts, such as ``n = 500``, is not broken over lines."""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

UNBROKEN = re.compile(r"\[[-+\d.]+, [-+\d.]+\]|\bn = [\d,]+")


def _keep(app: Sphinx, tree: nodes.document) -> None:
    for entry in tree.findall(nodes.entry):
        for text in list(entry.findall(nodes.Text)):
            kept = UNBROKEN.sub(lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text)
            text.parent.replace(text, nodes.Text(kept))


def setup(app: Sphinx) -> dict[str, Any]:
    """Change tables once a page is read."""
    app.connect("doctree-read", _keep)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
