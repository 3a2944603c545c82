"""Arguments of the package's classes, read from the source without importing it, so that help is instant."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1]
PARTS = ("modules", "data", "callbacks", "attacks", "quant", "models")
"""Folders whose packages export the classes that configs name."""

_SECTION = re.compile(r"\n\n?(Args|Raises|Returns):\n")
_CHOICE = re.compile(r"^(\w+) = Literal\[([^\]]*)\]", re.MULTILINE)
_ENTRY = re.compile(r"^(\w+):\s", re.MULTILINE)


class Parameter(NamedTuple):
    """A parameter of a constructor."""

    name: str
    annotation: str
    """As written in the source."""
    default: str | None
    """As written in the source, such as ``8 / 255``; None if it must be given."""
    text: str


class Signature(NamedTuple):
    """A class and the parameters of its constructor."""

    name: str
    module: str
    bases: tuple[str, ...]
    summary: str
    parameters: tuple[Parameter, ...]
    takes_inherited: bool
    """Whether the constructor also takes the parameters of the base classes."""
    is_abstract: bool


@cache
def signatures() -> Mapping[str, Signature]:
    """Return all classes that configs may name, by name."""
    files = [*(file for part in PARTS for file in sorted((PACKAGE / part).glob("*.py"))), PACKAGE / "schedules.py"]
    found: dict[str, Signature] = {}
    for file in files:
        module = "qra.schedules" if file.parent == PACKAGE else f"qra.{file.parent.name}"
        found |= {signature.name: signature for signature in _read(file, module)}
    return {name: signature._replace(parameters=_inherited(found, name)) for name, signature in found.items()}


@cache
def exported(part: str) -> tuple[str, ...]:
    """Return the classes that a part of the package, such as ``callbacks``, exports."""
    words = re.findall(r'^    "(\w+)",$', (PACKAGE / part / "__init__.py").read_text(), re.MULTILINE)
    return tuple(word for word in words if word in signatures())


@cache
def choices() -> Mapping[str, tuple[str, ...]]:
    """Return the values of each type that is a choice of words, such as ``Norm``."""
    files = [PACKAGE / "types.py", *(file for part in PARTS for file in sorted((PACKAGE / part).glob("*.py")))]
    found = (match for file in files for match in _CHOICE.finditer(file.read_text()))
    return {match[1]: tuple(re.findall(r'"([^"]*)"', match[2])) for match in found}


@cache
def trainer() -> tuple[Parameter, ...]:
    """Return the parameters of Lightning's trainer; none if its source is not where it is expected."""
    spec = find_spec("lightning")
    for place in (spec.submodule_search_locations or []) if spec else []:
        file = Path(place, "pytorch", "trainer", "trainer.py")
        if file.exists():
            return next((found.parameters for found in _read(file, "lightning") if found.name == "Trainer"), ())
    return ()


def subclasses(name: str) -> list[Signature]:
    """Return a class and all that derive from it, including abstract ones."""
    found = [signatures()[name]] if name in signatures() else []
    for other in signatures().values():
        if name in other.bases:
            found += subclasses(other.name)
    return found


def first_sentence(text: str) -> str:
    """Return the beginning of a text, up to the first full stop that ends a sentence."""
    return re.split(r"(?<=[^.A-Z][.])\s+(?=[A-Z`(-])", " ".join(text.split()), maxsplit=1)[0]


def _read(file: Path, module: str) -> Iterator[Signature]:
    tree = ast.parse(file.read_text())
    assigned = [(target, node.value) for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    constants = {target.id: value for target, value in assigned if isinstance(target, ast.Name)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield _signature(node, module, constants)


def _signature(node: ast.ClassDef, module: str, constants: Mapping[str, ast.expr]) -> Signature:
    methods = [each for each in node.body if isinstance(each, ast.FunctionDef)]
    init = next((method for method in methods if method.name == "__init__"), None)
    text = ast.get_docstring(node) or ""
    words = _argument_texts(f"{text}\n\n{(ast.get_docstring(init) or '') if init else ''}")
    taken = _of_function(init) if init else _of_fields(node) if node.decorator_list else ()
    parameters = tuple(
        Parameter(name, ast.unparse(kind) if kind else "", _default(value, constants), words.get(name, ""))
        for name, kind, value in taken
    )
    bases = tuple(ast.unparse(base) for base in node.bases)
    inherits = init is None or init.args.kwarg is not None
    abstract = any("abstractmethod" in map(ast.unparse, method.decorator_list) for method in methods)
    return Signature(node.name, module, bases, text.partition("\n\n")[0], parameters, inherits, abstract)


_Taken = Iterator[tuple[str, ast.expr | None, ast.expr | None]]


def _of_function(init: ast.FunctionDef) -> _Taken:
    arguments = [*init.args.posonlyargs, *init.args.args]
    required: list[ast.expr | None] = [None] * (len(arguments) - len(init.args.defaults))
    _, *pairs = zip(arguments, [*required, *init.args.defaults], strict=True)  # the first is self
    for argument, default in [*pairs, *zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)]:
        yield argument.arg, argument.annotation, default


def _of_fields(node: ast.ClassDef) -> _Taken:
    """Yield the fields of a dataclass."""
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and _is_field(each):
            yield each.target.id, each.annotation, each.value


def _is_field(node: ast.AnnAssign) -> bool:
    return not ast.unparse(node.annotation).startswith("ClassVar") and not ast.unparse(node.target).startswith("_")


def _inherited(found: Mapping[str, Signature], name: str) -> tuple[Parameter, ...]:
    """Return the parameters of a constructor, those of its base classes last."""
    signature = found[name]
    taken: dict[str, Parameter] = {}
    for base in reversed(signature.bases if signature.takes_inherited else ()):
        if base in found:
            taken |= {parameter.name: parameter for parameter in _inherited(found, base)}
    own = {parameter.name: parameter for parameter in signature.parameters}
    return tuple((own | {name: parameter for name, parameter in taken.items() if name not in own}).values())


def _default(node: ast.expr | None, constants: Mapping[str, ast.expr]) -> str | None:
    if node is None:
        return None
    if isinstance(node, ast.Name) and node.id in constants:
        node = constants[node.id]
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "field":
        node = next((keyword.value for keyword in node.keywords), node)
    if isinstance(node, ast.Constant):
        return {"None": "null", "True": "true", "False": "false"}.get(str(node.value), str(node.value))
    return re.sub(r"(?<=\d) / (?=\d)", "/", ast.unparse(node))


def _argument_texts(docstring: str) -> dict[str, str]:
    sections = _SECTION.split(inspect.cleandoc(docstring) if docstring.strip() else "")
    texts: dict[str, str] = {}
    for title, body in zip(sections[1::2], sections[2::2], strict=True):
        if title == "Args":
            words = _ENTRY.split(inspect.cleandoc(_indented_part(body)))
            texts |= {name: " ".join(text.split()) for name, text in zip(words[1::2], words[2::2], strict=True)}
    return texts


def _indented_part(body: str) -> str:
    """Return a section up to the first line that is not indented."""
    return re.split(r"\n(?=\S)", body, maxsplit=1)[0]
