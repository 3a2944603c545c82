"""The scope of a result, where it is less than a trained network on the whole test set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning import Trainer

from qra.data import data_of
from qra.evaluation.outcome import Outcome


def scope(trainer: Trainer, outcomes: Mapping[str, Outcome], checkpoint: str | None) -> dict[str, Any]:
    """Return what ``result.json`` says about the scope of a test.

    Args:
        trainer: Trainer of the test, or of the fit at whose end something was measured.
        outcomes: Outcomes that were measured.
        checkpoint: Path of the checkpoint with the weights, if any.

    Returns:
        ``untrained``: whether the weights are random. If ``trainer.limit_test_batches`` or ``fast_dev_run`` left images
        out, also ``partial``: how many of how many were tested.
    """
    tested = trainer.state.fn == "test"
    found: dict[str, Any] = {"untrained": tested and checkpoint is None}
    total = data_of(trainer).size("test")
    seen = [outcome.n for outcome in outcomes.values() if outcome.role == "clean"]
    if tested and seen and seen[0] < total:
        found["partial"] = {"images": seen[0], "of": total}
    return found


def remarks(found: Mapping[str, Any]) -> list[str]:
    """Return the same in words, one line per limitation."""
    lines = []
    if found["untrained"]:
        lines.append("untrained: the weights are random")
    if "partial" in found:
        lines.append("partial test: the first {images} of {of} test images".format(**found["partial"]))
    return lines
