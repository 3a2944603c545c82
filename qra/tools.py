"""The commands that are no work of Lightning's, and start without it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from qra.errors import fail
from qra.front.usage import explained_option

TOOLS = {
    "compare": "qra.compare",
    "doctor": "qra.doctor",
    "report": "qra.report.command",
    "study": "qra.study.command",
}
"""The module of each, whose ``main`` takes the arguments."""


def run(arguments: Sequence[str]) -> bool:
    """Run a command if it is a tool; return whether it was one."""
    if not arguments or arguments[0] not in TOOLS:
        return False
    try:
        import_module(TOOLS[arguments[0]]).main(arguments[1:])
    except Exception as reason:
        fail(explained_option(reason, arguments))
    return True
