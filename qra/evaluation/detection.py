"""How small an overstatement of robust accuracy a check of gradients can notice."""

from __future__ import annotations

from qra.evaluation.statistics import wilson_interval

CONFIDENCE = 0.99
"""Coverage of the intervals that thresholds are held against."""


def noticed_from(threshold: float, n: int) -> float:
    """The smallest share of examples that is beyond a threshold by more than chance explains.

    Args:
        threshold: Share in [0, 1).
        n: Number of examples, at least 1.

    Returns:
        A share in (0, 1]; 1 also where not even all examples would do.
    """
    low, high = 0, n  # the lower end of the interval rises with the count
    while low < high:
        count = (low + high) // 2
        low, high = (low, count) if wilson_interval(count, n, CONFIDENCE)[0] > threshold else (count + 1, high)
    return low / n
