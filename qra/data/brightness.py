"""Mean and standard deviation of a data set's pixels, from exact counts, so that they are equal on every machine."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

DECIMALS = 4
"""Decimals that are kept, as in published means and standard deviations."""


def mean_and_std(batches: Iterable[Tensor]) -> tuple[list[float], list[float]]:
    """Compute the mean and standard deviation of each channel, in pixel units, rounded.

    Args:
        batches: Images, uint8 (N, C, H, W); at least one batch.

    Returns:
        Mean and standard deviation of each channel. A deviation that would be rounded to 0 is 1/255.
    """
    counts = sum(torch.stack([channel.flatten().bincount(minlength=256) for channel in x.unbind(1)]) for x in batches)
    assert isinstance(counts, Tensor)  # 0 only without batches
    mean, std = [], []
    for channel in counts.tolist():
        n, total, squares = (sum(count * value**power for value, count in enumerate(channel)) for power in range(3))
        mean.append(round(total / n / 255, DECIMALS))
        std.append(round((squares * n - total**2) ** 0.5 / n / 255, DECIMALS) or round(1 / 255, DECIMALS))
    return mean, std
