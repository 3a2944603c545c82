"""References to what qra exports: by the module that defines it, or by its bare name, as docstrings write it."""

import inspect
import re
import sys
from functools import cache
from importlib import import_module
from typing import Any

from docutils import nodes
from generated.packages import exporting
from sphinx.addnodes import desc_signature, pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from qra.types import format_pixels


@cache
def exported() -> dict[str, str]:
    """Where each public object is documented, by all names that signatures and docstrings have for it."""
    found: dict[str, str] = {}
    for package, names in exporting().items():
        for name in names:
            item, place = getattr(import_module(package), name), f"{package}.{name}"
            found[name] = place
            if inspect.isclass(item) or inspect.isfunction(item):
                found[f"{item.__module__}.{item.__qualname__}"] = place
    return found


def _resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element) -> nodes.Node | None:
    if node.get("refdomain") != "py":
        return None
    target = str(node["reftarget"])
    owner, _, member = target.rpartition(".")
    place = exported().get(target) or (f"{exported()[owner]}.{member}" if owner in exported() else target)
    python = env.domains.python_domain
    found: nodes.Node | None = python.resolve_xref(env, node["refdoc"], app.builder, "obj", place, node, content)
    internal = _is_internal(owner, member) or _is_member(exported().get(str(node.get("py:class")), ""), member)
    return found or (content if internal else None)


def _linked(app: Sphinx, name: str, content: list[str]) -> None:
    """Link names of public objects that pages have as code, so that they need no markup that only Sphinx knows."""
    if app.env.doc2path(name).suffix == ".md":
        public = set(exported().values())
        content[0] = re.sub(
            r"(?<!`)`(qra\.[\w.]+)`(?!`)",
            lambda found: f"{{py:obj}}{found[0]}" if found[1] in public else found[0],
            content[0],
        )


def _is_internal(module: str, name: str) -> bool:
    """Whether something is defined in qra, but has no place on the site, as it is not exported."""
    ours = [module] if module else [each for each in sys.modules if each.startswith("qra.")]
    return any(hasattr(sys.modules.get(each), name) for each in ours if each.startswith("qra."))


def _is_member(path: str, name: str) -> bool:
    """Whether an exported class has something, which may lack a docstring."""
    package, _, cls = path.rpartition(".")
    return bool(path) and hasattr(getattr(import_module(package), cls), name)


def _skip(app: Sphinx, kind: str, name: str, item: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what is said of the fields of a named tuple: its docstring says it better."""
    return True if str(getattr(item, "__doc__", "")).startswith("Alias for field number") else None


def _once(app: Sphinx, tree: nodes.document) -> None:
    """Link the source of what two packages export from one of its two places, as viewcode knows only one."""
    for signature in tree.findall(desc_signature):
        place = f"{signature.get('module')}.{signature.get('fullname')}"
        package, _, name = place.rpartition(".")
        item = getattr(sys.modules.get(package), name, None)
        if inspect.isfunction(item) and exported().get(f"{item.__module__}.{item.__qualname__}", place) != place:
            signature["module"] = None


def _signature(
    app: Sphinx, kind: str, name: str, item: Any, options: Any, signature: str | None, result: str | None
) -> tuple[str | None, str | None]:
    """Write defaults in pixel units as fractions of 255."""
    return re.sub(r"\b0\.\d{9,}", lambda found: format_pixels(float(found[0])), signature or "") or None, result


def setup(app: Sphinx) -> dict[str, Any]:
    """Resolve what Sphinx itself does not find."""
    app.connect("missing-reference", _resolve)
    app.connect("source-read", _linked)
    app.connect("doctree-read", _once, priority=400)  # before viewcode
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
