"""Splitting work into parts when all at once does not fit in the device's memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor


class Parts:
    """Runs work on tensors with equally many rows, and after running out of memory on half as many rows at a time.

    The work must treat each row independently, so that splitting does not change its results.

    Attributes:
        limit: Maximum number of rows at a time; None for all.
    """

    def __init__(self) -> None:
        self.limit: int | None = None

    def __call__(self, work: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the results of ``work(*tensors)``.

        Raises:
            torch.OutOfMemoryError: If even a single row does not fit.
        """
        while True:
            try:
                return self._in_parts(work, tensors)
            except torch.OutOfMemoryError:
                rows = min(len(tensors[0]), self.limit or len(tensors[0]))
                if rows <= 1:
                    raise
            self.limit = -(-rows // 2)
            if tensors[0].device.type == "cuda":
                torch.cuda.empty_cache()
            warnings.warn(f"out of memory with {rows} images at a time: continuing with {self.limit}", stacklevel=2)

    def _in_parts(self, work: Callable[..., tuple[Tensor, ...]], tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.limit is None or len(tensors[0]) <= self.limit:
            return work(*tensors)
        parts = zip(*(torch.split(tensor, self.limit) for tensor in tensors), strict=True)
        results = [work(*part) for part in parts]
        return tuple(torch.cat(each) for each in zip(*results, strict=True))
