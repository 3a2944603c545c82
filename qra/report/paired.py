"""Paired comparison of two pipelines on the same test examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qra.coordinates import Axis
from qra.evaluation.doubt import State
from qra.evaluation.measured import ThreatModel
from qra.evaluation.outcome import Examples
from qra.evaluation.seeds import MANY, bootstrap_error
from qra.evaluation.statistics import mcnemar, shared
from qra.report.cells import CellResult
from qra.report.pipelines import Pipeline

MARGIN = 0.02
"""Difference in accuracy below which two pipelines count as equal: two percentage points."""
LEAST_SHARED = 2
"""Minimum number of shared examples for a comparison."""


class Effect(NamedTuple):
    """A difference in accuracy with its interval.

    Attributes:
        mean: First minus second, in [-1, 1].
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    mean: float
    low: float
    high: float

    @property
    def is_higher(self) -> bool:
        """Whether the first is better beyond chance, by the margin or more."""
        return self.low > 0 and self.mean >= MARGIN

    @property
    def is_lower(self) -> bool:
        """Whether the first is worse beyond chance, by the margin or more."""
        return self.high < 0 and self.mean <= -MARGIN

    @property
    def is_none(self) -> bool:
        """Whether the two surely differ by less than the margin."""
        return self.low > -MARGIN and self.high < MARGIN

    @property
    def title(self) -> str:
        """The effect in a word: ``higher``, ``lower``, ``none`` or ``unclear``."""
        return "higher" if self.is_higher else "lower" if self.is_lower else "none" if self.is_none else "unclear"


class Measure(NamedTuple):
    """What networks are compared by: clean accuracy, or that under the worst case of some attacks.

    Attributes:
        bounds: Threat model of the attacks; None for clean images.
        kinds: Kinds of the attacks.
        can_be_masked: Whether gradient masking may make it too high.
    """

    bounds: ThreatModel | None = None
    kinds: tuple[str, ...] = ()
    can_be_masked: bool = False

    @property
    def title(self) -> str:
        """Name of the measure, for people."""
        return "clean" if self.bounds is None else f"{' + '.join(self.kinds)}, {self.bounds.title}"

    def examples(self, cell: CellResult) -> Examples | None:
        """Return a cell's examples under this measure; None if they are unknown."""
        if self.bounds is None:
            return None if cell.clean is None else cell.per_example.get(cell.clean.name)
        if any(kind not in cell.attacks.get(self.bounds, {}) for kind in self.kinds):
            return None
        return cell.worst(self.bounds, self.kinds)


CLEAN = Measure()


class SeedPair(NamedTuple):
    """Comparison of two cells, by McNemar's test or, for distances and corrupted images, by Wilcoxon's.

    Attributes:
        names: Names of the two cells.
        difference: First minus second.
        lost: Number of examples that only the second classifies correctly, or on which it does better.
        gained: Number of examples that only the first classifies correctly, or on which it does better.
        p: Two-sided p-value under the hypothesis of no difference; exact for McNemar's test.
    """

    names: tuple[str, str]
    difference: float
    lost: int
    gained: int
    p: float


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of two pipelines, or of two outcomes of one.

    Args:
        titles: Titles of the two sides.
        outcomes: Titles of the measures by which they are compared.
        accuracies: Accuracies of both on the shared examples, means over seeds.
        n: Number of shared examples.
        mean: First minus ``share`` times second.
        centre: Middle of the interval of ``mean``, which :func:`centre_and_error` shifts slightly.
        error: Standard error of ``centre`` over the examples.
        seeds: One entry per pair of cells.
        states: State of the gradients of each side, as far as it matters to its number; a suspect number is only an
            upper bound.
        share: Share of the second accuracy that the first is compared with.
    """

    titles: tuple[str, str]
    outcomes: tuple[str, str]
    accuracies: tuple[float, float]
    n: int
    mean: float
    centre: float
    error: float
    seeds: tuple[SeedPair, ...]
    states: tuple[State, State]
    share: float = 1.0

    def effect(self, family: int) -> Effect:
        """Return the difference with an interval that is valid at 95 % for ``family`` comparisons (Bonferroni).

        It covers the choice of test examples and, from five seeds on, that of seeds. Seeds that point in different
        directions extend it to 0, and a suspect number, which is only an upper bound, opens it on that side.
        """
        half_width = NormalDist().inv_cdf(1 - 0.025 / family) * self.error
        low, high = self.centre - half_width, self.centre + half_width
        if min(pair.difference for pair in self.seeds) <= 0:
            low = min(low, 0.0)
        if max(pair.difference for pair in self.seeds) >= 0:
            high = max(high, 0.0)
        suspect = [state == "suspect" for state in self.states]
        return Effect(self.mean, -1.0 if suspect[0] else low, 1.0 if suspect[1] else high)


class Gap(StrEnum):
    """Reasons, in words, why two pipelines cannot be compared."""

    ATTACKS = "no attack at this budget that both have met and that counts on its own"
    SEEDS = "no matching seeds"
    DATA = "they were tested on other images"
    FILES = "results of single examples are not known"
    EXAMPLES = "no shared examples: they were attacked on other images"


def strongest(first: Pipeline, second: Pipeline, bounds: ThreatModel | None) -> Measure | None:
    """Return the worst case over the attacks of a threat model that all cells of both pipelines have.

    Returns:
        The measure; None if there are no such attacks or none of them stands alone.
    """
    if bounds is None:
        return None
    kinds = tuple(sorted({*first.kinds(bounds)} & {*second.kinds(bounds)}))
    attacks = [first.cells[0].attacks[bounds][kind] for kind in kinds]
    return Measure(bounds, kinds, True) if any(attack.stands_alone for attack in attacks) else None


def paired_at(
    bounds: ThreatModel | None, first: Pipeline, second: Pipeline, titles: tuple[str, str] = ("", "")
) -> Comparison | Gap:
    """Compare two pipelines under the worst case over the attacks of a threat model that both have."""
    measure = strongest(first, second, bounds)
    return Gap.ATTACKS if measure is None else paired(first, second, titles, (measure, measure))


def paired(
    first: Pipeline, second: Pipeline, titles: tuple[str, str], measures: tuple[Measure, Measure], share: float = 1.0
) -> Comparison | Gap:
    """Compare two outcomes on the examples that all their cells share.

    Cells are paired by seed; a pipeline with one seed, such as a shared float network, is paired with every cell of the
    other.

    Args:
        first: A pipeline.
        second: Another, or the same.
        titles: Titles of the two.
        measures: Measures by which the two are compared.
        share: Share of the second accuracy that the first is compared with; 1 for a plain difference.

    Returns:
        The comparison, or why there is none.
    """
    pairs = matched(first, second)
    if isinstance(pairs, Gap):
        return pairs
    found = [(measures[0].examples(left), measures[1].examples(right)) for left, right in pairs]
    columns = [side for pair in found for side in pair]
    known = [side for side in columns if side is not None]
    if len(known) < len(columns):
        return Gap.FILES
    correct = shared(known)[1].numpy()
    if correct.shape[1] < LEAST_SHARED:
        return Gap.EXAMPLES
    lefts, rights = correct[::2], correct[1::2]
    mean = float((lefts - share * rights).mean())
    centre, error = centre_and_error(lefts - share * rights, share)
    seeds = tuple(_seed_pair(pair, a, b, share) for pair, a, b in zip(pairs, lefts, rights, strict=True))
    states = _state(first, measures[0]), _state(second, measures[1])
    outcomes = measures[0].title, measures[1].title
    accuracies = float(lefts.mean()), float(rights.mean())
    return Comparison(titles, outcomes, accuracies, lefts.shape[1], mean, centre, error, seeds, states, share)


def _state(pipeline: Pipeline, measure: Measure) -> State:
    return pipeline.state if measure.can_be_masked else "sound"


def matched(first: Pipeline, second: Pipeline) -> list[tuple[CellResult, CellResult]] | Gap:
    """Return the cells of two pipelines paired by seed, at least one pair; or why there are none."""
    pairs = _by_seed(first.cells, second.cells)
    if not pairs:
        return Gap.SEEDS
    return pairs if len({cell.data for pair in pairs for cell in pair}) == 1 else Gap.DATA


def _by_seed(first: Sequence[CellResult], second: Sequence[CellResult]) -> list[tuple[CellResult, CellResult]]:
    if len(first) == 1 or len(second) == 1:
        return [(left, right) for left in first for right in second]
    seeds = {cell.coordinates.get(Axis.SEED): cell for cell in second}
    return [(cell, seeds[seed]) for cell in first if (seed := cell.coordinates.get(Axis.SEED)) in seeds]


def centre_and_error(differences: NDArray[np.float64], share: float) -> tuple[float, float]:
    """Return the middle and standard error of an interval for the mean difference over examples and network pairs.

    It is the adjusted Wald interval of Agresti and Min 2005 (Simple improved confidence intervals for comparing matched
    proportions): half an example is added to each cell of the table of who is correct, so that the error is not 0 for
    networks that agree everywhere, and the middle is closer to ``(1 - share) / 2``, which is 0 for a plain difference.
    From ``MANY`` pairs on the error is at least that of a bootstrap over pairs and examples. If all pairs have one
    network in common, that network is taken as fixed: the interval covers other seeds of the rest and other examples,
    but not another training of that one.

    Args:
        differences: First minus ``share`` times second, with a row for each pair, (pairs, n).
        share: Share of the second accuracy that the first is compared with.
    """
    pairs, n = differences.shape
    differences, of_pairs = differences.mean(0), differences
    added = np.array([1 - share, 1.0, -share, 0.0])  # both correct, only the first, only the second, neither
    n += 2
    total = float(differences.sum()) + float(added.sum()) / 2
    squares = float((differences**2).sum()) + float((added**2).sum()) / 2
    error = math.sqrt((squares / n - (total / n) ** 2) / n)
    return total / n, max(error, bootstrap_error(of_pairs)) if pairs >= MANY else error


def _seed_pair(
    cells: tuple[CellResult, CellResult], first: NDArray[np.bool_], second: NDArray[np.bool_], share: float
) -> SeedPair:
    lost, gained = int((second & ~first).sum()), int((first & ~second).sum())
    names = cells[0].name, cells[1].name
    return SeedPair(names, float((first - share * second).mean()), lost, gained, mcnemar(lost, gained))
