"""Write the cards of ``checkpoints/``: ``NAME.card.json`` for each, and their texts between two marks in its README.

Usage: ``python benchmarks/checkpoint_cards.py [RUN ...]``. Numbers are counted from the files, or come from
    ``checkpoints/results/NAME.json``, into which the results of the given run directories are copied first. Pass all
    runs that tested a checkpoint at once. ``checkpoints/recipes.json`` describes how the checkpoints were trained.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from results_page import ROOT, between_marks

import qra
from qra import checkpoint
from qra.deploy.card import Card, about_file
from qra.deploy.card_text import markdown
from qra.deploy.checkpoint_card import card_of_checkpoint, tested
from qra.evaluation.outcome import read_result
from qra.evaluation.store import RESULT, Gathered, read_examples
from qra.writing import write_json

FOLDER = ROOT / "checkpoints"
IMAGE_SHAPE = (3, 32, 32)


def main(runs: Sequence[str]) -> None:
    record([Path(run) for run in runs])
    cards = contents()
    for path, content in cards.items():
        write_json(path.with_suffix(".card.json"), content)
    between_marks(FOLDER / "README.md", Path(__file__).name, texts(cards.values()))


def contents() -> dict[Path, dict[str, Any]]:
    """Return the content of the cards by published file."""
    return {path: card_of(path).content({path.name: about_file(path)}) for path in checkpoints()}


def texts(cards: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the Markdown text of cards for the page."""
    return ["\n\n".join(markdown(content, level=2).rstrip() for content in cards)]


def checkpoints() -> list[Path]:
    """Return the published checkpoint files."""
    return sorted(FOLDER.glob("*.ckpt"))


def card_of(path: Path) -> Card:
    """Return the card of a published checkpoint."""
    card = card_of_checkpoint(qra.load(path), path, IMAGE_SHAPE)
    known = json.loads((FOLDER / "results" / f"{path.stem}.json").read_text())
    recipe = json.loads((FOLDER / "recipes.json").read_text())[path.stem]
    return dataclasses.replace(card, tested=known, training={**card.training, **recipe})


def record(runs: Sequence[Path]) -> None:
    """Save the results of runs that tested published checkpoints in ``checkpoints/results``.

    Raises:
        ValueError: If a run does not belong to a published checkpoint.
    """
    names = {checkpoint.sha256(path): path.stem for path in checkpoints()}
    found: dict[str, dict[Path, dict[str, Any]]] = defaultdict(dict)
    for run in runs:
        result = read_result(run / RESULT)
        sha256 = (result.get("checkpoint") or {}).get("sha256")
        if sha256 not in names or result.get("calibration"):
            raise ValueError(f"{run}: does not belong to any published checkpoint")
        found[names[sha256]][run] = result
    for name, results in found.items():
        write_json(FOLDER / "results" / f"{name}.json", tested(merged(results)))


def merged(results: Mapping[Path, Mapping[str, Any]]) -> dict[str, Any]:
    """Merge several tests of a network on the same data; of two outcomes with the same name, keep the later one.

    Raises:
        ValueError: If the tests are on different data.
    """
    in_order = dict(sorted(results.items(), key=lambda item: str(item[1]["date"])))
    if len({result["data"]["sha256"] for result in in_order.values()}) > 1:
        raise ValueError(f"{', '.join(map(str, in_order))}: were tested on different data")
    gathered = Gathered()
    for run, result in in_order.items():
        gathered.summaries |= result["outcomes"]
        gathered.examples |= read_examples(run, dict(result))
    gathered.judge()
    tests = [test for result in in_order.values() for test in result["tests"]]
    return {**list(in_order.values())[-1], "outcomes": gathered.summaries, "tests": tests}


if __name__ == "__main__":
    main(sys.argv[1:])
