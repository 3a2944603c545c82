"""Batches decoded by worker processes, identical for any number of workers and ranks."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from qra.data.crops import Crops, draw
from qra.data.decoding import LARGEST, UnreadableImageError
from qra.data.listing import ImageFiles
from qra.data.sampling import IndexBatches
from qra.types import Batch

_DIE_WITH_PARENT = 1
"""Linux: PR_SET_PDEATHSIG."""


class PassBatches(IndexBatches):
    """Batches of indices together with the number of their pass through the images.

    The draws of a worker for an image depend on the pass, and a worker knows only what it is sent.
    """

    def __iter__(self) -> Iterator[Any]:
        for step, batch in enumerate(super().__iter__(), self.begin()):
            yield batch.tolist(), self._pass(step)  # as numbers: a tensor would be sent with its whole storage

    def _pass(self, step: int) -> int:
        if self.length is None:
            return self.epoch
        return (self.epoch * self.length + step) * self.batch_size // len(self.indices)


@dataclass(frozen=True)
class DecodedBatches(Dataset[Batch]):
    """Decodes a whole batch at once.

    Attributes:
        files: Image files of the part.
        decoded: Returns the decoded image at an index.
        crops: How images are cropped and scaled.
        seed: Seed of random crops; if None, the centre of each image is cropped.
    """

    files: ImageFiles
    decoded: Callable[[int], Image.Image]
    crops: Crops
    seed: int | None = None

    def __getitem__(self, asked: tuple[list[int], int]) -> Batch:
        numbers, number = asked
        indices = torch.tensor(numbers)
        labels = torch.tensor([self.files.label(i) for i in numbers])
        return Batch(torch.stack(self._images(numbers, indices, number)), labels, indices)

    def _images(self, numbers: list[int], indices: Tensor, number: int) -> list[Tensor]:
        if self.seed is None:
            return [self.image(i) for i in numbers]
        drawn = draw(indices, self.seed, number)
        return [self.crops.random(self.decoded(i), draws) for i, draws in zip(numbers, drawn, strict=True)]

    def image(self, index: int) -> Tensor:
        """Return the centre crop of an image, uint8, (C, H, W).

        Raises:
            UnreadableImageError: If it is so elongated that its scaled copy would not fit into memory.
        """
        image, scaled = self.decoded(index), self.crops.resize
        shorter, longer = sorted(image.size)
        if scaled * scaled * longer > LARGEST * shorter:
            raise UnreadableImageError(
                f"{self.files.path(index)} has {image.width} x {image.height} pixels, too elongated to be scaled to "
                f"{scaled}: crop or remove it"
            )
        return self.crops.whole(image)


class WorkerLoader(DataLoader[Batch]):
    """A loader whose workers start with the first batch.

    When training is resumed, Lightning sets the epoch only after it has created the iterator, and workers are sent
    their first batches as soon as they start.
    """

    def __iter__(self) -> Any:
        with _without_advice():
            batches = super().__iter__()
        yield from batches


@contextmanager
def _without_advice() -> Iterator[None]:
    """Suppress warnings about more workers than cores, of which the data module warns itself, and about forks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*worker processes in total.*")
        warnings.filterwarnings("ignore", ".*multi-threaded, use of fork.*", DeprecationWarning)
        yield


def loader(batches: PassBatches, decoded: DecodedBatches, workers: int, pinned: bool, kept: bool) -> DataLoader[Batch]:
    """Return a loader of batches that workers decode.

    Args:
        batches: Indices of each batch.
        decoded: Decodes the images.
        workers: Number of worker processes; 0 to decode in this process.
        pinned: Whether batches are in pinned memory, from which a GPU can copy them asynchronously.
        kept: Whether the workers persist between epochs.
    """
    with _without_advice():
        return WorkerLoader(
            decoded,
            sampler=batches,
            batch_size=None,
            num_workers=workers,
            pin_memory=pinned,
            persistent_workers=kept and workers > 0,
            worker_init_fn=_begin,
            generator=torch.Generator(),  # leaves the global generator unchanged
        )


def _begin(number: int) -> None:
    """Ignore interrupts, which are handled by the parent process, and exit together with it."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":  # otherwise a worker would outlive a killed parent by seconds and hold its locks
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
