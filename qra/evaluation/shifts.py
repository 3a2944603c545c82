"""Accuracy on images with natural corruptions instead of attacks, by corruption and severity, and its mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any, NamedTuple

from torch import Tensor

from qra.evaluation.measured import Accuracy, Measured
from qra.evaluation.outcome import Outcome


class Shift(NamedTuple):
    """A corruption at a severity.

    Attributes:
        corruption: Name, such as ``fog``.
        severity: Severity, counted from 1, the mildest.
    """

    corruption: str
    severity: int


def shift_outcome(shift: Shift, data: str, indices: Tensor, correct: Tensor) -> Outcome:
    """Return the outcome of a network on corrupted images.

    Args:
        shift: Corruption and severity of the images.
        data: Hash of the corrupted images.
        indices: Positions of the examples in them, int64 (n,).
        correct: Whether the network is correct on each, bool (n,).
    """
    corruption, severity = shift
    settings = {**shift._asdict(), "data": data}
    title = f"{corruption.replace('_', ' ')}, severity {severity}"
    return Outcome(f"shift_{corruption}_{severity}", title, settings, indices, correct, role="shift")


def shift_of(outcome: Measured) -> Shift | None:
    """Return the corruption of an outcome's images, or None if there is none or it is not stated."""
    corruption, severity = (outcome.attack.get(key) for key in Shift._fields)
    if outcome.role != "shift" or not isinstance(corruption, str) or type(severity) is not int:
        return None
    return Shift(corruption, severity)


def by_shift(outcomes: Iterable[Measured]) -> dict[Shift, Measured]:
    """Return the outcomes on corrupted images by corruption and severity; of several, the one on most images."""
    known = sorted(outcomes, key=lambda each: each.accuracy.n)
    found = {shift: each for each in known if (shift := shift_of(each)) is not None}
    return {shift: found[shift] for shift in sorted(found)}


def corruption_means(accuracies: Mapping[Shift, Accuracy]) -> dict[str, float]:
    """Return the mean accuracy of each corruption over its severities, in [0, 1]."""
    names = dict.fromkeys(shift.corruption for shift in accuracies)
    return {name: fmean(each.value for shift, each in accuracies.items() if shift.corruption == name) for name in names}


def summary(outcomes: Iterable[Measured]) -> dict[str, Any]:
    """Return the mean accuracy of each corruption over severities, and the mean of these; empty if there are none."""
    means = corruption_means({shift: each.accuracy for shift, each in by_shift(outcomes).items()})
    return {"mean": fmean(means.values()), "by_corruption": means} if means else {}
