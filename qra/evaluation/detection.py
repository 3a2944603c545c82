"""The smallest overstatement of robust accuracy that a masking check can detect."""

from __future__ import annotations

from qra.evaluation.statistics import wilson_interval

CONFIDENCE = 0.99
"""Coverage of the intervals that are compared with thresholds."""


def noticed_from(threshold: float, n: int) -> float:
    """Return the smallest share of examples whose confidence interval lies entirely above a threshold.

    Args:
        threshold: Share in [0, 1).
        n: Number of examples, at least 1.

    Returns:
        A share in (0, 1]; 1 also if not even all examples would suffice.
    """
    low, high = 0, n  # the lower end of the interval rises with the count
    while low < high:
        count = (low + high) // 2
        low, high = (low, count) if wilson_interval(count, n, CONFIDENCE)[0] > threshold else (count + 1, high)
    return low / n
