"""Two pipelines on the same test examples: what one gets right and the other does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qra.evaluation.statistics import mcnemar
from qra.report.cells import CellResult
from qra.report.pipelines import Pipeline, strength, well_sampled

MARGIN = 0.02
"""A smaller difference in accuracy counts as none: two percentage points."""


class Effect(NamedTuple):
    """A difference in accuracy as far as it is known.

    Attributes:
        mean: First minus second, in [-1, 1].
        low: Lower end of its interval.
        high: Upper end.
    """

    mean: float
    low: float
    high: float

    @property
    def is_higher(self) -> bool:
        """The first is better, by the margin or more."""
        return self.low > 0 and self.mean >= MARGIN

    @property
    def is_lower(self) -> bool:
        """The first is worse, by the margin or more."""
        return self.high < 0 and self.mean <= -MARGIN

    @property
    def is_none(self) -> bool:
        """The two differ by less than the margin."""
        return self.low > -MARGIN and self.high < MARGIN

    @property
    def title(self) -> str:
        """In a word."""
        return "higher" if self.is_higher else "lower" if self.is_lower else "none" if self.is_none else "unclear"


class SeedPair(NamedTuple):
    """McNemar's comparison of two cells.

    Attributes:
        names: Names of the two cells.
        difference: First minus second.
        lost: Examples that only the second gets right.
        gained: Examples that only the first gets right.
        p: Two-sided exact probability of so uneven a split, were there no difference.
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
        titles: What is compared with what.
        outcomes: Names of the two outcomes.
        accuracies: Accuracies of both on the shared examples, means over seeds.
        n: Number of shared examples.
        mean: First minus second (times ``share``).
        error: Standard error of the mean over the examples.
        seeds: One entry a pair of cells.
        suspect: Whether the number of each side is an upper bound only, since gradients seem to be hidden.
        share: Share of the second accuracy that the first is compared with; 1 for a plain difference.
    """

    titles: tuple[str, str]
    outcomes: tuple[str, str]
    accuracies: tuple[float, float]
    n: int
    mean: float
    error: float
    seeds: tuple[SeedPair, ...]
    suspect: tuple[bool, bool]
    share: float = 1.0

    def effect(self, family: int) -> Effect:
        """The difference with an interval that holds at 95 % for all of ``family`` comparisons together (Bonferroni).

        It covers the choice of test examples. Seeds that point in different directions pull it to 0, and a suspect
        number, which bounds robustness from above only, opens it on that side.
        """
        half_width = NormalDist().inv_cdf(1 - 0.025 / family) * self.error
        low, high = self.mean - half_width, self.mean + half_width
        if min(pair.difference for pair in self.seeds) <= 0:
            low = min(low, 0.0)
        if max(pair.difference for pair in self.seeds) >= 0:
            high = max(high, 0.0)
        return Effect(self.mean, -1.0 if self.suspect[0] else low, 1.0 if self.suspect[1] else high)


def strongest(first: Pipeline, second: Pipeline, level: float) -> str | None:
    """The strongest attack at a budget that all cells of both pipelines have, on not too few examples; None if none."""
    cells = (*first.cells, *second.cells)
    shared = set.intersection(*(set(cell.outcomes) for cell in cells))
    found = [cell.outcomes[name] for name in sorted(shared) for cell in cells]
    found = well_sampled([each for each in found if each.is_robust_accuracy and each.levels == level])
    return max(found, key=lambda each: (strength(each.attack), each.name)).name if found else None


def paired(
    first: Pipeline, second: Pipeline, titles: tuple[str, str], outcomes: tuple[str, str], share: float = 1.0
) -> Comparison | None:
    """Compare two outcomes on the examples that all their cells share.

    Cells are paired by seed; a pipeline of one seed, such as a shared float network, is paired with each of the other.

    Args:
        first: A pipeline.
        second: Another, or the same.
        titles: Titles of the two.
        outcomes: Name of the outcome of each.
        share: Share of the second accuracy that the first is compared with; 1 for a plain difference.

    Returns:
        None if no seeds match, per-example outcomes are missing, or the cells were tested on different data.
    """
    pairs = _by_seed(first.cells, second.cells)
    if not pairs or len({_data(cell) for pair in pairs for cell in pair}) > 1:
        return None
    found = [(left.examples(outcomes[0]), right.examples(outcomes[1])) for left, right in pairs]
    columns = [side for pair in found for side in pair]
    if any(side is None for side in columns):
        return None
    indices = reduce(np.intersect1d, [side[0] for side in columns if side is not None])
    if len(indices) < 2:
        return None
    right = [side[1][np.searchsorted(side[0], indices)] for side in columns if side is not None]
    lefts, rights = np.stack(right[::2]), np.stack(right[1::2])
    mean, error = _mean_difference((lefts - share * rights).mean(0))
    seeds = tuple(_seed_pair(pair, a, b, share) for pair, a, b in zip(pairs, lefts, rights, strict=True))
    sides = zip((first, second), outcomes, strict=True)
    suspect = [side.suspect and name != "clean" and not side.cells[0].outcomes[name].mode for side, name in sides]
    accuracies = float(lefts.mean()), float(rights.mean())
    return Comparison(titles, outcomes, accuracies, len(indices), mean, error, seeds, (suspect[0], suspect[1]), share)


def _by_seed(first: Sequence[CellResult], second: Sequence[CellResult]) -> list[tuple[CellResult, CellResult]]:
    if len(first) == 1 or len(second) == 1:
        return [(left, right) for left in first for right in second]
    seeds = {cell.coordinates.get("seed"): cell for cell in second}
    return [(cell, seeds[seed]) for cell in first if (seed := cell.coordinates.get("seed")) in seeds]


def _data(cell: CellResult) -> str:
    data: Any = cell.sheet.get("data")
    return str(data.get("sha256")) if isinstance(data, dict) else ""


def _mean_difference(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and its standard error over examples.

    The error is that of Agresti and Min (2005): half an example more in each cell of the table, so that it is not 0 for
    networks that agree everywhere.
    """
    n = len(differences) + 2
    total, squares = float(differences.sum()), float((differences**2).sum()) + 1
    return float(differences.mean()), math.sqrt((squares / n - (total / n) ** 2) / n)


def _seed_pair(
    cells: tuple[CellResult, CellResult], first: NDArray[np.bool_], second: NDArray[np.bool_], share: float
) -> SeedPair:
    lost, gained = int((second & ~first).sum()), int((first & ~second).sum())
    names = cells[0].name, cells[1].name
    return SeedPair(names, float((first - share * second).mean()), lost, gained, mcnemar(lost, gained))
