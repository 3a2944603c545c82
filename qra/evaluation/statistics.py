"""Intervals for accuracies, and what to make of two networks or several seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import torch
from torch import Tensor


def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a proportion (Wilson 1927; Brown, Cai and DasGupta 2001, eq. 4).

    Args:
        correct: Number of successes.
        n: Number of trials, at least 1.
        confidence: Coverage, in (0, 1).

    Returns:
        Lower and upper bound, as fractions in [0, 1].

    Raises:
        ValueError: If there are no trials, or more successes than trials.
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"{correct} of {n} is no proportion")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half_width = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half_width), min(1.0, centre + half_width)


def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided p-value of two classifiers being equally good on paired examples (McNemar 1947).

    Under that hypothesis an example that only one classifies correctly is as likely to be the one's as the other's; the
    others say nothing.

    Args:
        lost: Examples that only the first classifies correctly.
        gained: Examples that only the second classifies correctly.

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


def shared(runs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """What several runs found of the examples that all of them looked at.

    Args:
        runs: Positions in the test set, int64 (n,), each once, and correctness, bool (n,), of each run.

    Returns:
        The shared positions, ascending, (m,), and the correctness in each run, bool (runs, m).
    """
    indices = runs[0][0]
    for other, _ in runs[1:]:
        indices = indices[torch.isin(indices, other)]
    indices = indices.sort().values
    rows = []
    for own, correct in runs:
        order = own.argsort()
        rows.append(correct[order][torch.searchsorted(own[order], indices)])
    return indices, torch.stack(rows)


def worst_over_seeds(runs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The worst case over runs of one network attacked with other seeds: correct only where all of them are.

    Args:
        runs: Positions in the test set, int64 (n,), each once, and correctness, bool (n,), of each run.

    Returns:
        The shared positions, ascending, (m,), and the correctness, bool (m,).
    """
    indices, correct = shared(runs)
    return indices, correct.all(0)
