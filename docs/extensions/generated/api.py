"""The API: a page for each package that exports something, with everything that it exports."""

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from generated.packages import exporting
from qra.front.signatures import first_sentence


def pages() -> dict[str, str]:
    """An index, and a page a package."""
    found = {f"api/{package}.rst": _page(package, names) for package, names in exporting().items()}
    entries = "\n".join(f"   {package}" for package in exporting())
    index = f"{_title('Python')}\nWhat each package exports; everything else may change.\n\n"
    return found | {"api/index.rst": f"{index}.. toctree::\n   :maxdepth: 1\n\n{entries}\n"}


def _page(package: str, names: tuple[str, ...]) -> str:
    lines = [_title(package), _summary(import_module(package)), "", f".. currentmodule:: {package}", ""]
    lines += [".. list-table::", ""]
    for name in names:
        lines += [f"   * - :py:obj:`~{package}.{name}`", f"     - {_first(package, name)}"]
    return "\n".join([*lines, "", *(line for name in names for line in _entry(package, name))]) + "\n"


def _entry(package: str, name: str) -> Iterator[str]:
    kind = _kind(package, name)
    yield f".. auto{kind}:: {package}.{name}"
    if kind == "class":
        yield from ("   :members:", "   :show-inheritance:")
    yield ""


def _kind(package: str, name: str) -> str:
    item: Any = getattr(import_module(package), name)
    if inspect.isclass(item):
        return "class"
    return "function" if inspect.isroutine(item) else "data"


def _first(package: str, name: str) -> str:
    if _kind(package, name) == "data":
        return ""
    said = first_sentence(" ".join(_summary(getattr(import_module(package), name)).split()))
    return re.sub(r":(?:meth|attr):`~?([^`]*)`", r"``\1``", said)


def _summary(item: Any) -> str:
    return inspect.cleandoc(item.__doc__ or "").partition("\n\n")[0]


def _title(text: str) -> str:
    return f"{text}\n{'=' * len(text)}\n"
