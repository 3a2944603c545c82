"""The part of a run's test images that an evaluation uses."""

from __future__ import annotations

import torch
from lightning import Trainer
from torch import Tensor

from qra.data import data_of
from qra.types import Batch


class Subset:
    """Those images of a class-balanced subset of the test set that a run has served on this rank.

    Args:
        trainer: Trainer of ``test`` or ``predict``, which may be limited to some batches.
        n: Number of images; all of them if there are fewer.
        seed: Seed that selects the images.
    """

    def __init__(self, trainer: Trainer, n: int, seed: int) -> None:
        self._data = data_of(trainer)
        self._chosen = self._data.choose("test", n, seed)
        self._served: list[Tensor] = []

    def add(self, batch: Batch) -> None:
        """Record a batch that was served."""
        self._served.append(batch.indices)

    def batches(self, batch_size: int) -> list[Batch]:
        """Return float images in [0, 1] on the device, with labels and indices; one empty batch if there are none."""
        served = torch.cat(self._served).cpu()
        return list(self._data.batches("test", served[torch.isin(served, self._chosen)], batch_size))
