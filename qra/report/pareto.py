"""Which pipeline to choose for a budget: those that nothing smaller beats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from qra.report.pipelines import FLOOR, Pipeline, Results


class Offer(NamedTuple):
    """What a pipeline costs and what it gives.

    Attributes:
        pipeline: The pipeline.
        cost: Cost in the unit asked for.
        robust: Robust accuracy in [0, 1], the mean over seeds.
    """

    pipeline: Pipeline
    cost: float
    robust: float


def offers(results: Results, cost: str, unit: float) -> tuple[Offer, ...]:
    """All pipelines whose cost and robust accuracy are known, by ascending cost.

    Args:
        results: Results of the study.
        cost: ``size_in_bits`` or ``bit_ops``.
        unit: How much of it is 1, such as 8192 bits for a KiB.
    """
    found = []
    for pipeline in results.pipelines:
        accuracy, amount = pipeline.robust(results.headline), pipeline.cost(cost)
        if accuracy is not None and amount is not None and amount > 0:
            found.append(Offer(pipeline, amount / unit, accuracy.value))
    return tuple(sorted(found, key=lambda offer: (offer.cost, -offer.robust, results.label(offer.pipeline))))


def front(choices: Sequence[Offer]) -> tuple[Offer, ...]:
    """Those that are more robust than everything that costs no more.

    Pipelines whose gradients are suspect are left out, since their robust accuracy may be too high, and those with
    nothing left of it. Those that are not judged are not: whoever shows them says so.
    """
    best: list[Offer] = []
    for offer in sorted(choices, key=lambda offer: (offer.cost, -offer.robust)):
        if offer.pipeline.state != "suspect" and offer.robust > (best[-1].robust if best else FLOOR):
            best.append(offer)
    return tuple(best)


def recommended(choices: Sequence[Offer], budget: float) -> Offer | None:
    """The most robust one within a budget; None if nothing fits."""
    return next((offer for offer in reversed(front(choices)) if offer.cost <= budget), None)
