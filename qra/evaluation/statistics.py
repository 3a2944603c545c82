"""Confidence intervals for accuracies, and statistics for two networks or several seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor


def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson interval of a proportion (Wilson 1927; Brown, Cai and DasGupta 2001, eq. 4).

    Args:
        correct: Number of successes.
        n: Number of trials, at least 1.
        confidence: Coverage, in (0, 1).

    Returns:
        Lower and upper bound, as fractions in [0, 1].

    Raises:
        ValueError: If there are no trials, or the successes are negative or more than the trials.
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"{correct} of {n} is not a proportion")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half_width = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half_width), min(1.0, centre + half_width)


def mcnemar(lost: int, gained: int) -> float:
    """Return the exact two-sided p-value of two classifiers being equally good on paired examples (McNemar 1947).

    Under that hypothesis, an example that only one classifier gets right is equally likely to be either's. All other
    examples carry no information.

    Args:
        lost: Number of examples that only the first classifies correctly.
        gained: Number of examples that only the second classifies correctly.

    Raises:
        ValueError: If a count is negative.
    """
    if lost < 0 or gained < 0:
        raise ValueError(f"{lost} lost and {gained} gained: a count is never negative")
    n = lost + gained
    ways = term = 1
    for k in range(min(lost, gained)):  # the sum of the binomial coefficients up to the smaller count
        term = term * (n - k) // (k + 1)
        ways += term
    return min(1.0, float(2 * ways / 2**n))


EXACT = 50
"""Number of differences up to which Wilcoxon's test is exact."""


def wilcoxon(differences: Tensor) -> float:
    """Return the two-sided p-value of paired differences being symmetric about zero (Wilcoxon 1945, signed ranks).

    Zeros are dropped, and differences of equal size share their mean rank. The p-value is exact for up to 50
    differences. For more, the sum of ranks is approximated as normal, with the variance corrected for ties. It is 1 if
    all differences are zero.

    Args:
        differences: Differences, (n,).
    """
    nonzero = differences[differences != 0].double()
    if len(nonzero) == 0:
        return 1.0
    _, place, counts = np.unique(nonzero.abs().numpy(), return_inverse=True, return_counts=True)
    doubled = torch.from_numpy((2 * counts.cumsum() - counts + 1)[place])  # twice the mean ranks, which are integers
    positive, total = int(doubled[nonzero > 0].sum()), int(doubled.sum())
    smaller = min(positive, total - positive)
    if len(nonzero) > EXACT:
        z = (smaller - total / 2) / math.sqrt(float((doubled.double() ** 2).sum()) / 4)
        return 2 * NormalDist().cdf(z)
    ways = torch.zeros(total + 1, dtype=torch.float64)
    ways[0] = 1
    for rank in doubled.tolist():
        ways[rank:] += ways[:-rank].clone()
    return min(1.0, float(2 * ways[: smaller + 1].sum() / 2 ** len(nonzero)))


def hodges_lehmann(differences: Tensor) -> tuple[float, float]:
    """Return the shift that belongs to Wilcoxon's test: the median of all means of two (Hodges and Lehmann 1963).

    Args:
        differences: Differences, (n,). Equal ones are first spread evenly, halfway to their neighbours: differences of
            whole pixel levels have means that are nearly all equal, from which no error can be told.

    Returns:
        The shift and its standard error, which is half the length of the interval from inverting the test at one
        standard deviation.
    """
    if not differences.any():
        return 0.0, 0.0
    values = _spread(differences.double().sort().values)
    pairs = len(values) * (len(values) + 1) // 2
    deviation = math.sqrt(pairs * (2 * len(values) + 1) / 12)
    low, high = (_mean_of_two(values, pairs / 2 + place) for place in (-deviation, deviation))
    middle = [_mean_of_two(values, rank) for rank in ((pairs + 1) // 2, pairs // 2 + 1)]  # the same if odd
    return sum(middle) / 2, (high - low) / 2


def _spread(values: Tensor) -> Tensor:
    """Spread equal ones of ascending values (n,), not all 0, between the middles to their neighbours, 0 among them."""
    levels, place, counts = np.unique(values.numpy(), return_inverse=True, return_counts=True)
    marks = np.union1d(levels, 0.0)
    middles = (marks[1:] + marks[:-1]) / 2
    ends = np.array([2 * marks[0] - middles[0], *middles, 2 * marks[-1] - middles[-1]])
    own = np.searchsorted(marks, levels)[place]
    share = (np.arange(len(values)) - (counts.cumsum() - counts)[place] + 0.5) / counts[place]
    spread = torch.from_numpy(ends[own] + share * (ends[own + 1] - ends[own]))
    return torch.where(torch.from_numpy(counts[place] > 1), spread, values)


def _mean_of_two(values: Tensor, rank: float) -> float:
    """Return the mean with the given rank among the means of all pairs of ascending values (n,), i <= j."""
    low, high = float(values[0]), float(values[-1])
    for _ in range(60):
        middle = (low + high) / 2
        below = torch.searchsorted(values, 2 * middle - values, right=True).sum() + (values <= middle).sum()
        low, high = (low, middle) if float(below) / 2 >= rank else (middle, high)
    return high


def shared(runs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the results of several runs on the examples that they share.

    Args:
        runs: Positions in the test set, without repetitions, int64 (n,), and correctness, bool (n,), of each run.

    Returns:
        The shared positions, ascending, (m,), and the correctness in each run, bool (runs, m).
    """
    indices = runs[0][0]
    if all(torch.equal(own, indices) for own, _ in runs):  # the usual case, which needs no search
        order = indices.argsort()
        return indices[order], torch.stack([correct[order] for _, correct in runs])
    for other, _ in runs[1:]:
        indices = indices[torch.isin(indices, other)]
    indices = indices.sort().values
    rows = []
    for own, correct in runs:
        order = own.argsort()
        rows.append(correct[order][torch.searchsorted(own[order], indices)])
    return indices, torch.stack(rows)
