"""Epoch means accumulated on the device, because logging each step would cost more than a step of a small network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from qra.losses import prediction


class EpochMeans:
    """Means of named values over the examples of an epoch."""

    PERIOD = 20
    """Maximum number of batches whose logits are kept, so that one accuracy computation serves all of them."""
    LARGEST = 2**20
    """Number of kept logits at which the accuracy is computed even before ``PERIOD`` batches."""

    def __init__(self) -> None:
        self.reset()

    def reset(self, earlier: Mapping[str, Sequence[float]] = {}) -> None:
        """Begin an epoch, or go on with one.

        Args:
            earlier: Sum and number of examples by name, see :meth:`totals`, of the part of the epoch that is done.
        """
        self._earlier = {name: (float(total), int(count)) for name, (total, count) in earlier.items()}
        self._sums: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()
        self._logits: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._is_news = False

    @torch.no_grad()
    def add(self, name: str, value: Tensor, count: int) -> None:
        """Add a mean over ``count`` examples."""
        self._add(name, value.detach(), count, scale=count)

    def add_accuracy(self, name: str, logits: Tensor, y: Tensor) -> None:
        """Add the accuracy of logits, (N, classes), given the labels ``y``, (N,)."""
        kept = self._logits.setdefault(name, [])
        kept.append((logits.detach().clone(), y.clone()))  # the originals' memory may be overwritten in the meantime
        if len(kept) == self.PERIOD or len(kept) * logits.numel() >= self.LARGEST:
            self._look(name)

    def news(self) -> dict[str, Tensor]:
        """Return the means so far, by name; none if nothing was added since the last call."""
        totals = self.totals()
        found = {name: total / count for name, (total, count) in totals.items()} if self._is_news else {}
        self._is_news = False
        return found

    def totals(self) -> dict[str, tuple[Tensor, int]]:
        """Return the sum so far and the number of examples, by name."""
        for name in list(self._logits):
            self._look(name)
        return {name: (total, self._counts[name]) for name, total in self._sums.items()}

    @torch.no_grad()
    def _look(self, name: str) -> None:
        logits, labels = (torch.cat(each) for each in zip(*self._logits.pop(name), strict=True))
        self._add(name, (prediction(logits) == labels).sum(), len(labels), scale=1)

    def _add(self, name: str, value: Tensor, count: int, scale: int) -> None:
        if name not in self._sums:
            total, self._counts[name] = self._earlier.get(name, (0.0, 0))
            self._sums[name] = torch.full((), total, device=value.device)
        self._sums[name].add_(value, alpha=scale)
        self._counts[name] += count
        self._is_news = True
