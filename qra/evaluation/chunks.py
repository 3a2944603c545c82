"""Chunks of a test set under attack: in any order, on any rank, and taken up again after a kill."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qra import noise
from qra.describe import describe, digest, without_empty
from qra.evaluation.identity import contents_hash
from qra.files import read_npz
from qra.quant.network import activation_quantizers
from qra.writing import write_arrays, write_json

CHUNKS = "chunks"
"""Folder of a run directory with what attacks left, chunk by chunk."""


def shuffled(indices: Tensor, seed: int) -> Tensor:
    """Some examples in a random order, (n,), so that no chunk of a set that is sorted by class has but one class."""
    return indices[noise.uniform((), indices, seed, noise.Stream.CHUNKS).argsort(stable=True)]


def fingerprint(network: nn.Module, *descriptions: Any) -> str:
    """A hash of the function that a network is: its weights and buffers, and how roundings are differentiated.

    Args:
        network: The network; its class is not looked at.
        descriptions: What else is to count, ready for JSON.
    """
    modes = sorted({quantizer.gradient for quantizer in activation_quantizers(network).values()})
    about = digest(without_empty([describe(network), modes, *descriptions]))
    return digest([about, contents_hash(network)])


def code_of(*objects: object) -> str:
    """A hash of the source files of objects' classes, as far as they are neither of qra nor of torch; "" if all are.

    Settings and weights do not show what somebody changes in a class of their own.
    """
    files = set()
    for kind in {kind for each in objects for kind in type(each).__mro__}:
        if kind.__module__.partition(".")[0] not in ("builtins", "abc", "torch", "torchvision", "qra"):
            try:
                files.add(inspect.getsourcefile(kind))
            except (TypeError, OSError):  # made in a shell
                continue
    contents = sorted(Path(file).read_bytes() for file in files if file is not None and Path(file).is_file())
    return hashlib.sha256(b"\0".join(contents)).hexdigest() if contents else ""


class ChunkFiles:
    """A directory with what first broke the examples of a test set under one attack: one file a chunk.

    Its name ends in a hash of all that this depends on, so that evaluations of other settings have one of their own. A
    subclass may keep another array of the examples.

    Args:
        parent: Where the directory is made, if need be.
        name: Name of the evaluation.
        settings: All that the files depend on, flat and ready for JSON.
        chunks: Positions of the examples of each chunk in the test set.
        count: Number of attacks that may have broken an example.
    """

    array = "first_broken_by"
    """Name of the array that is kept."""

    def __init__(
        self, parent: Path, name: str, settings: Mapping[str, Any], chunks: Sequence[Tensor], count: int
    ) -> None:
        self.chunks, self._count = chunks, count
        self._digest = digest(settings)
        self.directory = parent / f"{name}-{self._digest[:8]}"
        self.directory.mkdir(parents=True, exist_ok=True)
        write_json(self.directory / "settings.json", settings)

    def read(self, number: int) -> Tensor | None:
        """What was found out about the examples of a chunk; None if it is not done, cut short or of other settings."""
        try:
            arrays = read_npz(self._path(number), follow=False)
            settings, indices, found = (arrays[name] for name in ("settings", "indices", self.array))
        except (OSError, ValueError, KeyError):
            return None
        same = str(settings) == self._digest and np.array_equal(indices, self.chunks[number].numpy())
        return torch.from_numpy(found) if same and self._can_be(found, len(indices)) else None

    def _can_be(self, found: NDArray[Any], n: int) -> bool:
        """Whether an array may be what was kept of n examples."""
        return found.dtype == np.uint8 and found.shape == (n,) and bool((found <= self._count + 1).all())

    def write(self, number: int, found: Tensor) -> None:
        """Keep what was found out about the examples of a chunk, whole or not at all."""
        arrays = {
            "settings": np.array(self._digest),
            "indices": self.chunks[number].numpy(),
            self.array: found.numpy(),
        }
        write_arrays(self._path(number), arrays)

    def _path(self, number: int) -> Path:
        return self.directory / f"chunk-{number:05d}.npz"
