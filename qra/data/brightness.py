"""Mean and spread of the pixels of a data set, counted exactly, so that they are the same on every machine."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

DECIMALS = 4
"""Decimals that are kept: those of published means and deviations."""


def mean_and_std(batches: Iterable[Tensor]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, in pixel units, rounded.

    Args:
        batches: Images, uint8 (N, C, H, W); at least one.

    Returns:
        A mean and a standard deviation for each channel; that of a channel of one brightness is a step of 1/255.
    """
    counts = sum(torch.stack([channel.flatten().bincount(minlength=256) for channel in x.unbind(1)]) for x in batches)
    assert isinstance(counts, Tensor)  # not the 0 of no batch
    mean, std = [], []
    for channel in counts.tolist():
        n, total, squares = (sum(count * value**power for value, count in enumerate(channel)) for power in range(3))
        mean.append(round(total / n / 255, DECIMALS))
        std.append(round(((squares * n - total**2) ** 0.5 / n or 1) / 255, DECIMALS))
    return mean, std
