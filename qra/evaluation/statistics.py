"""Intervals for accuracies."""

from __future__ import annotations

import math
from statistics import NormalDist


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
    """Exact test of two paired proportions (McNemar 1947): the two-sided binomial probability of so uneven a split.

    Args:
        lost: Examples that only the first gets right.
        gained: Examples that only the second gets right.

    Returns:
        p in [0, 1]; 1 if the two never differ.

    Raises:
        ValueError: If a count is negative.
    """
    if min(lost, gained) < 0:
        raise ValueError(f"{lost} lost and {gained} gained: a count is never negative")
    n = lost + gained
    terms = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(min(lost, gained) + 1)]
    return min(1.0, 2 * math.fsum(math.exp(term - n * math.log(2)) for term in terms))
