"""Means over an epoch, added up on the device: logging each step would cost more than a step of a small network."""

from __future__ import annotations

import torch
from torch import Tensor


class EpochMeans:
    """Means of values over the examples of an epoch, by name."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    @torch.no_grad()
    def add(self, name: str, value: Tensor, count: int) -> None:
        """Take in a mean of ``count`` examples."""
        if name not in self._sums:
            self._sums[name] = torch.zeros((), device=value.device)
            self._counts[name] = 0
        self._sums[name].add_(value.detach(), alpha=count)
        self._counts[name] += count

    def take(self) -> dict[str, Tensor]:
        """The means since the last time, by name."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means
