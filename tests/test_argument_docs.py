"""What a docstring says of an argument can be read alone: it names the thing, and does not go on from a sentence."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "qra"
FRAGMENTS = re.compile(
    r"above|as|at|because|before|below|between|by|ditto|for|from|here|if|in|into|its|like|likewise|of|on|see|than|that|"
    r"there|these|those|told|to|under|when|which|who|whose|with|within|without",
    re.IGNORECASE,
)
"""First words of what is no name of a thing."""
ENTRY = re.compile(r"    \*{0,2}\w+: (\w+)")
RETURNED = re.compile(r"    (As|Likewise|There)\b")


def fragments(docstring):
    """The lines of a docstring that begin to speak of an argument or a result, and cannot be read alone."""
    section = ""
    for line in docstring.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            section = line
        entry = ENTRY.match(line) if section in ("Args:", "Attributes:") else None
        result = RETURNED.match(line) if section in ("Returns:", "Yields:") else None
        if result or (entry and FRAGMENTS.fullmatch(entry[1])):
            yield line.strip()


def test_a_fragment_is_found():
    arguments = "Args:\n    a: As there.\n    b: A length.\n    c: Of the network.\n        Of it.\n"
    found = fragments(f"Do.\n\n{arguments}\nReturns:\n    As here.")
    assert list(found) == ["a: As there.", "c: Of the network.", "As here."]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_said_of_an_argument_can_be_read_alone(path):
    kinds = ast.FunctionDef | ast.ClassDef | ast.Module
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]
    assert [line for node in nodes for line in fragments(ast.get_docstring(node) or "")] == []
