"""``docs/api.md`` lists what is public: every name that a package exports, each of which exists and is documented."""

import ast
import inspect
import itertools
import re
from importlib import import_module
from pathlib import Path

import pytest

import qra

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/api.md").read_text().partition("## Using qra")[2]
EXPORTING = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in (*(ROOT / "qra").glob("*.py"), *(ROOT / "qra").glob("*/__init__.py"))
    if re.search(r"^__all__ = ", file.read_text(), re.MULTILINE) and file.parent.name != "graphs"
)


def listed():
    """The names that the page lists under each package."""
    found, package = {}, ""
    for word in re.findall(r"`([\w.]+)`", PAGE):
        if word in EXPORTING:
            package = word
        else:
            found.setdefault(package, set()).add(word)
    return found


def test_the_page_lists_what_packages_export_and_no_more():
    assert listed() == {package: set(import_module(package).__all__) for package in EXPORTING}


def aliases(package):
    """Names that a package's files give a value and a docstring."""
    for file in Path(import_module(package).__file__).parent.glob("*.py"):
        body = ast.parse(file.read_text()).body
        for node, following in itertools.pairwise(body):
            if isinstance(node, ast.Assign) and isinstance(following, ast.Expr):
                yield from (target.id for target in node.targets if isinstance(target, ast.Name))


@pytest.mark.parametrize("package", ["qra.quant", "qra.attacks", "qra.data", "qra.modules", "qra.callbacks"])
def test_all_that_is_exported_is_documented(package):
    module, documented = import_module(package), set(aliases(package))
    for name in module.__all__:
        item = getattr(module, name)
        known = (inspect.isclass(item) or inspect.isroutine(item)) and inspect.getdoc(item)
        assert known or name in documented, name


def test_the_examples_of_extending_import_what_is_public():
    text = (ROOT / "docs/extending.md").read_text()
    public = listed()
    for package, names in re.findall(r"^from (qra\.[\w.]+) import ([\w, ]+)$", text, re.MULTILINE):
        assert set(names.split(", ")) <= public.get(package, set()), f"{package}: {names}"


def test_the_version_is_public():
    assert {"load", "evaluate", "__version__"} <= set(qra.__all__)
