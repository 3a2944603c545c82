"""Commands that do not use Lightning's command line and start without importing it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from qra.errors import fail
from qra.front.usage import explained_option

if TYPE_CHECKING:
    from qra.study.check import Parse
    from qra.study.forecast import Foresee
    from qra.study.grid import Cell

TOOLS = {
    "compare": "qra.compare",
    "deploy": "qra.deploy.command",
    "doctor": "qra.doctor",
    "export": "qra.deploy.export",
    "report": "qra.report.command",
    "study": "qra.study.command",
}
"""Module of each command, whose ``main`` takes the arguments."""


def _decidable(cells: Sequence[Cell]) -> list[str]:
    """Return what a study's cells can say about each claim, one line each; it keeps studies and reports independent."""
    claims: list[str] = import_module("qra.report.foresight").decidable(
        [(cell.name, cell.coordinates, cell.commands) for cell in cells]
    )
    return claims


def run(arguments: Sequence[str], parse: Parse, foresee: Foresee) -> bool:
    """Run a command if it is a tool, and return whether it was one."""
    if not arguments or arguments[0] not in TOOLS:
        return False
    try:
        main = import_module(TOOLS[arguments[0]]).main
        study = (parse, foresee, _decidable) if arguments[0] == "study" else ()
        main(arguments[1:], *study)
    except Exception as reason:
        fail(explained_option(reason, arguments))
    return True
