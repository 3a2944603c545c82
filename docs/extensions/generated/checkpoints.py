"""The published checkpoints: their cards as one page, and the table of their accuracies."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from generated.packages import ROOT
from qra import checkpoint
from qra.evaluation.measured import Measured, read_measured
from qra.report.tables import percent

FOLDER = ROOT / "checkpoints"
SHOWN = (("clean", 0), ("PGD-20", 2), ("PGD-20", 8), ("AutoAttack", 8), ("rounding cascade", 8))
"""Outcomes of the table on the landing page: titles, and budgets in levels of 255."""


def pages() -> dict[str, str]:
    """The page, and the table that the landing page shows."""
    cards = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.card.json"))]
    page = (FOLDER / "README.md").read_text().replace("](../docs/", "](../")
    titles = ("network", *(f"{title}, {eps}/255" if eps else title for title, eps in SHOWN))
    rows = [titles, ("---",) * len(titles), *map(_results, cards)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return {"checkpoints.md": page, "parts/results.md": table + "\n"}


def _results(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Accuracies of a checkpoint, if the card is of the file that is there."""
    about = card["checkpoint"]
    if checkpoint.sha256(FOLDER / about["file"]) != about["sha256"]:
        raise ValueError(f"checkpoints/{card['name']}.card.json: is of another file; make it again")
    outcomes = [read_measured(name, summary) for name, summary in card["tested"]["outcomes"].items()]
    return f"`{card['name']}`", *(_shown(outcomes, title, eps) for title, eps in SHOWN)


def _shown(outcomes: Iterable[Measured], title: str, eps: float) -> str:
    """An accuracy on float images, with its interval below it; empty where it was not measured."""
    for each in outcomes:
        if (each.kind, each.threat_model.levels, each.threat_model.pixels) == (title, eps, "float"):
            value, _, doubt = percent(each.accuracy, with_n=False).partition(" ")
            return f"{value}<br><small>{doubt}<br>n = {each.accuracy.n:,}</small>"
    return ""
