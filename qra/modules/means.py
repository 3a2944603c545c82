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
        value = value.detach().float() * count
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts[name] = self._counts.get(name, 0) + count

    def take(self) -> dict[str, Tensor]:
        """The means since the last time, by name."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means
