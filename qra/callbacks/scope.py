"""What a result is of, where that is less than a trained network on the whole test set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning import Trainer

from qra.data import data_of
from qra.evaluation.outcome import Outcome


def scope(trainer: Trainer, outcomes: Mapping[str, Outcome], checkpoint: str | None) -> dict[str, Any]:
    """What ``result.json`` says of the scope of a test.

    Args:
        trainer: Trainer of the test, or of the fit at whose end something was measured.
        outcomes: What was found.
        checkpoint: The file that the weights are from, if any.

    Returns:
        ``untrained``, whether the weights are random; and where ``trainer.limit_test_batches`` or ``fast_dev_run`` left
        images out, ``partial``: how many of how many were tested.
    """
    tested = trainer.state.fn == "test"
    found: dict[str, Any] = {"untrained": tested and checkpoint is None}
    total = data_of(trainer).size("test")
    seen = [outcome.n for outcome in outcomes.values() if outcome.role == "clean"]
    if tested and seen and seen[0] < total:
        found["partial"] = {"images": seen[0], "of": total}
    return found


def remarks(found: Mapping[str, Any]) -> list[str]:
    """The same in words, a line for each doubt."""
    lines = []
    if found["untrained"]:
        lines.append("untrained: the weights are random")
    if "partial" in found:
        lines.append("partial test: the first {images} of {of} test images".format(**found["partial"]))
    return lines
