"""Means over an epoch, added up on the device: logging each step would cost more than a step of a small network."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from qra.losses import prediction


class EpochMeans:
    """Means of values over the examples of an epoch, by name."""

    PERIOD = 20
    """Most batches whose accuracy is looked at together, in the few launches that one takes."""
    LARGEST = 2**20
    """Number of logits that are kept at most until then."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()
        self._logits: dict[str, list[tuple[Tensor, Tensor]]] = {}

    @torch.no_grad()
    def add(self, name: str, value: Tensor, count: int) -> None:
        """Take in a mean of ``count`` examples."""
        self._add(name, value.detach(), count, scale=count)

    def add_accuracy(self, name: str, logits: Tensor, y: Tensor) -> None:
        """Take in the accuracy of logits, (N, classes), with the labels ``y``, (N,)."""
        kept = self._logits.setdefault(name, [])
        kept.append((logits.detach().clone(), y.clone()))  # their memory may be written to until they are looked at
        if len(kept) == self.PERIOD or len(kept) * logits.numel() >= self.LARGEST:
            self._look(name)

    def take(self) -> dict[str, Tensor]:
        """The means since the last time, by name."""
        for name in list(self._logits):
            self._look(name)
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, Counter()
        return means

    @torch.no_grad()
    def _look(self, name: str) -> None:
        logits, labels = (torch.cat(each) for each in zip(*self._logits.pop(name), strict=True))
        self._add(name, (prediction(logits) == labels).sum(), len(labels), scale=1)

    def _add(self, name: str, value: Tensor, count: int, scale: int) -> None:
        if name not in self._sums:
            self._sums[name] = torch.zeros((), device=value.device)
        self._sums[name].add_(value, alpha=scale)
        self._counts[name] += count
