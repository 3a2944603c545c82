"""Standard errors of means over trainings with several seeds, which are clusters of test examples."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

MANY = 5
"""Number of seeds from which on an interval also covers their choice; with fewer, each seed is shown."""
RESAMPLES = 2000
_Z = 1.96


def bootstrap_error(values: NDArray[np.float64]) -> float:
    """Return the standard error of a mean over seeds and examples by a cluster bootstrap, whose clusters are the seeds.

    Seeds and examples are crossed, so both are resampled (Owen 2007, The pigeonhole bootstrap). A bootstrap of S
    clusters finds only (S - 1) / S of their variance, which is corrected. The random draws are always the same.

    Args:
        values: One row per seed, (seeds, n).

    Returns:
        The standard error, widened so that 1.96 of it are the 95 % interval of Student's t with S - 1 degrees of
        freedom.
    """
    seeds, n = values.shape
    of_seeds, of_examples = _resamples(seeds, n)
    means = np.einsum("bs,bs->b", of_seeds, of_examples @ values.T) / (seeds * n)
    return float(means.std()) * math.sqrt(seeds / (seeds - 1)) * _widening(seeds - 1)


@lru_cache(maxsize=4)  # a report compares thousands of pairs with the same numbers
def _resamples(seeds: int, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how often each seed and each example is drawn, (resamples, seeds) and (resamples, n)."""
    rng = np.random.default_rng(0)
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)
    of_examples = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES)
    return of_seeds.astype(np.float64), of_examples.astype(np.float64)


def accuracy_error(accuracies: Sequence[float], n: int) -> float:
    """Return the standard error of a mean accuracy if only the accuracy of each seed on the same n examples is known.

    It is widened as in :func:`bootstrap_error`.

    Args:
        accuracies: Accuracy of each seed, as a fraction.
        n: Number of examples.
    """
    mean = statistics.fmean(accuracies)
    variance = statistics.variance(accuracies) / len(accuracies) + mean * (1 - mean) / n
    return math.sqrt(variance) * _widening(len(accuracies) - 1)


def _widening(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t divided by the normal one, by the Cornish-Fisher expansion."""
    return 1 + (_Z**2 + 1) / (4 * freedom) + (5 * _Z**4 + 16 * _Z**2 + 3) / (96 * freedom**2)
