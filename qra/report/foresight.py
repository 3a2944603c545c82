"""Which claims a study could decide, before it is run: its cells with made-up results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from qra.evaluation.measured import Accuracy, Measured, ThreatModel
from qra.report.cells import CellResult
from qra.report.claims import CLAIMS
from qra.report.results import Results
from qra.types import parse_pixels

BUDGETS = ("0.5/255", "1/255", "2/255", "4/255", "8/255", "16/255", "32/255")
"""What ``qra test`` attacks at if nothing is said."""
_N = 64

Planned = tuple[str, Mapping[str, Any], Sequence[Sequence[str]]]
"""Name, coordinates and commands of a cell."""


def decidable(cells: Iterable[Planned]) -> list[str]:
    """What a study could say about each claim, a line each.

    Args:
        cells: Cells of the study.
    """
    results = Results("study", tuple(_imagined(*cell) for cell in cells))
    lines = []
    for claim in CLAIMS:
        checks = list(claim.checks(results))
        open_ones = sum(bool(check.missing) for check in checks)
        if len(checks) == open_ones:
            lines.append(f"no   {claim.key}: needs {claim.needs}")
        else:
            made = len(checks) - open_ones
            lack = f", {open_ones} cannot be made" if open_ones else ""
            of = f"1 check{lack}" if made == 1 else f"{made} checks{lack}"
            lines.append(f"yes  {claim.key}: {of}. {claim.statement}")
    return lines


def _imagined(name: str, coordinates: Mapping[str, Any], commands: Sequence[Sequence[str]]) -> CellResult:
    """A cell as it may end: every attack leaves half of the examples."""
    test = dict(zip(commands[-1][1::2], commands[-1][2::2], strict=True))
    budgets = [parse_pixels(each) for each in _listed(test.get("--evaluation.eps"), BUDGETS)]
    gradients = _listed(test.get("--evaluation.gradients"), ("ste",))
    outcomes = {"clean": Measured("clean", "clean", "clean", ThreatModel("linf", 0.0), Accuracy(0.5, _N))}
    for eps in budgets:
        bounds = ThreatModel("linf", eps)
        for gradient in gradients:
            key = f"pgd_{bounds.key}_{gradient}"
            outcomes[key] = Measured(key, "PGD", "robust", bounds, Accuracy(0.5, _N), gradient=gradient)
    seconds = {command[0]: 1.0 for command in commands}
    cell = CellResult(name, Path(name), "", dict(coordinates), "done", seconds=seconds, outcomes=outcomes)
    examples = torch.arange(_N), torch.arange(_N) % 2 == 0
    vars(cell)["_examples"] = dict.fromkeys(outcomes, examples)
    return cell


def _listed(value: str | None, usual: Sequence[str]) -> list[Any]:
    """A list as an option of the command line has it."""
    found = usual if value is None else yaml.safe_load(value)
    return list(found) if isinstance(found, list | tuple) else [found]
