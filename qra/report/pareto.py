"""Which pipeline to choose for a budget: the smallest of those that nothing within it surely beats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from qra.evaluation.measured import ThreatModel
from qra.report.paired import Comparison, Gap, paired, strongest
from qra.report.pipelines import Pipeline
from qra.report.results import FLOOR, Results


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


class Choice(NamedTuple):
    """What to use from a budget on.

    Attributes:
        use: The offer to take: nothing that fits into the budget is surely more robust.
        ties: Others that cannot be told apart from it, until the next choice, by ascending cost.
    """

    use: Offer
    ties: tuple[Offer, ...]


def offers(results: Results, cost: str, unit: float) -> tuple[Offer, ...]:
    """All pipelines whose cost and robust accuracy are known, by ascending cost.

    Args:
        results: Results of the study.
        cost: ``size_in_bits`` or ``bit_ops``.
        unit: How much of it is 1, such as 8192 bits for a KiB.
    """
    found = []
    for pipeline in results.comparable:
        accuracy, amount = pipeline.robust(results.headline), pipeline.cost(cost)
        if accuracy is not None and amount is not None and amount > 0:
            found.append(Offer(pipeline, amount / unit, accuracy.value))
    return tuple(sorted(found, key=lambda offer: (offer.cost, -offer.robust, results.label(offer.pipeline))))


def choices(results: Results, found: Sequence[Offer]) -> tuple[Choice, ...]:
    """What to use, by ascending budget: a larger model only where it is surely more robust than a smaller one.

    Pipelines whose gradients are suspect are left out, since their robust accuracy may be too high, and those with
    nothing left of it. Those that are not judged are not: whoever shows them says so.

    Args:
        results: Results of the study.
        found: Offers of it.
    """
    usable = [offer for offer in found if offer.pipeline.state != "suspect" and offer.robust > FLOOR]
    usable.sort(key=lambda offer: (offer.cost, -offer.robust))
    chosen: list[Offer] = []
    for offer in usable:
        if not chosen or _is_better(offer, chosen[-1], results.headline):
            if chosen and chosen[-1].cost == offer.cost:
                chosen.pop()
            chosen.append(offer)
    ends = [offer.cost for offer in chosen[1:]] + [float("inf")] * bool(chosen)
    return tuple(
        Choice(use, tuple(each for each in usable if each.cost < end and _is_tie(each, use, results.headline)))
        for use, end in zip(chosen, ends, strict=True)
    )


def recommended(found: Sequence[Choice], budget: float) -> Choice | None:
    """What to use within a budget; None if nothing fits."""
    return next((choice for choice in reversed(found) if choice.use.cost <= budget), None)


def _is_tie(offer: Offer, other: Offer, bounds: ThreatModel | None) -> bool:
    return offer is not other and not _is_better(offer, other, bounds) and not _is_better(other, offer, bounds)


def _is_better(offer: Offer, other: Offer, bounds: ThreatModel | None) -> bool:
    """Whether an offer is more robust than another beyond chance, on the same examples where both tell them."""
    measure = None if bounds is None else strongest(offer.pipeline, other.pipeline, bounds)
    compared = Gap.ATTACKS if measure is None else paired(offer.pipeline, other.pipeline, ("", ""), (measure, measure))
    if compared in (Gap.EXAMPLES, Gap.DATA):
        return False
    if isinstance(compared, Comparison):
        effect = compared.effect(1)
        return effect.mean > 0 and (effect.low > 0 or "suspect" in compared.states)
    first, second = offer.pipeline.robust(bounds), other.pipeline.robust(bounds)
    if first is None or second is None:
        return offer.robust > other.robust
    return first.interval[0] > second.interval[1]
