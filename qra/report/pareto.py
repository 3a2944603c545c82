"""Recommendation of a pipeline for a budget: the smallest that nothing within the budget surely beats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from qra.evaluation.measured import ThreatModel
from qra.report.paired import Comparison, Gap, paired_at
from qra.report.pipelines import Pipeline
from qra.report.results import FLOOR, Results


class Offer(NamedTuple):
    """Cost and robust accuracy of a pipeline.

    Attributes:
        pipeline: The pipeline.
        cost: Cost, in the unit that was asked for.
        robust: Robust accuracy in [0, 1], the mean over seeds.
    """

    pipeline: Pipeline
    cost: float
    robust: float


class Choice(NamedTuple):
    """Recommendation from a budget on.

    Attributes:
        use: Recommended offer; nothing that fits in the budget is surely more robust.
        ties: Others that cannot be told apart from it, up to the next choice, by ascending cost.
    """

    use: Offer
    ties: tuple[Offer, ...]


def offers(results: Results, cost: str, unit: float) -> tuple[Offer, ...]:
    """Return all pipelines whose cost and robust accuracy are known, by ascending cost.

    Args:
        results: Results of the study.
        cost: Kind of cost, ``size_in_bits`` or ``bit_ops``.
        unit: Size of the unit of cost, such as 8192 bits for a KiB.
    """
    found = []
    for pipeline in results.comparable:
        accuracy, amount = pipeline.robust(results.headline), pipeline.cost(cost)
        if accuracy is not None and amount is not None and amount > 0:
            found.append(Offer(pipeline, amount / unit, accuracy.value))
    return tuple(sorted(found, key=lambda offer: (offer.cost, -offer.robust, results.label(offer.pipeline))))


def front(results: Results, found: Sequence[Offer]) -> list[Offer]:
    """Return what of :func:`offers` to use, by ascending budget: a larger model only if it is surely more robust.

    Pipelines with suspect gradients are left out, because their robust accuracy may be too high, and so are those
    without robust accuracy. Pipelines that were not judged are included; whoever shows them must say so.
    """
    chosen: list[Offer] = []
    for offer in _usable(found):
        if not chosen or _is_better(offer, chosen[-1], results.headline):
            if chosen and chosen[-1].cost == offer.cost:
                chosen.pop()
            chosen.append(offer)
    return chosen


def choices(results: Results, found: Sequence[Offer]) -> tuple[Choice, ...]:
    """Return what of :func:`offers` to use, as :func:`front` does, with what cannot be told apart from it."""
    usable, chosen = _usable(found), front(results, found)
    ends = [*(offer.cost for offer in chosen[1:]), math.inf]
    return tuple(
        Choice(use, tuple(each for each in usable if each.cost < end and _is_tie(each, use, results.headline)))
        for use, end in zip(chosen, ends, strict=False)
    )


def _usable(found: Sequence[Offer]) -> list[Offer]:
    return [offer for offer in found if offer.pipeline.state != "suspect" and offer.robust > FLOOR]


def recommended(found: Sequence[Choice], budget: float) -> Choice | None:
    """Return what to use within a budget; None if nothing fits."""
    return next((choice for choice in reversed(found) if choice.use.cost <= budget), None)


def _is_tie(offer: Offer, other: Offer, bounds: ThreatModel | None) -> bool:
    return offer is not other and not _is_better(offer, other, bounds) and not _is_better(other, offer, bounds)


def _is_better(offer: Offer, other: Offer, bounds: ThreatModel | None) -> bool:
    """Return whether an offer is more robust than another beyond chance, on the same examples if both have them."""
    compared = paired_at(bounds, offer.pipeline, other.pipeline)
    if compared in (Gap.EXAMPLES, Gap.DATA):
        return False
    if isinstance(compared, Comparison):
        effect = compared.effect(1)
        return effect.mean > 0 and (effect.low > 0 or "suspect" in compared.states)
    first, second = offer.pipeline.robust(bounds), other.pipeline.robust(bounds)
    if first is None or second is None:
        return offer.robust > other.robust
    return first.interval[0] > second.interval[1]
