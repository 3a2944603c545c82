"""Chunks of a test set under attack, processed in any order and on any rank, and resumed after an interruption."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qra import noise
from qra.describe import architecture, contents_hash, digest, is_of_library, without_empty
from qra.files import read_npz
from qra.quant.network import activation_quantizers
from qra.writing import write_arrays, write_json

CHUNKS = "chunks"
"""Folder of a run directory that holds the results of attacks, chunk by chunk."""


def shuffled(indices: Tensor, seed: int) -> Tensor:
    """Return examples in a random order, (n,), so that chunks of a data set sorted by class mix several classes."""
    return indices[noise.uniform((), indices, seed, noise.Stream.CHUNKS).argsort(stable=True)]


def fingerprint(network: nn.Module, *descriptions: Any) -> str:
    """Return a hash of a network, of how its roundings are differentiated, and of descriptions ready for JSON.

    The network counts with its architecture, weights and buffers.
    """
    modes = sorted({quantizer.gradient for quantizer in activation_quantizers(network).values()})
    about = digest(without_empty([architecture(network), modes, *descriptions]))
    return digest([about, contents_hash(network)])


def code_of(*objects: object) -> str:
    """Return a hash of the source files of objects and of what is in them, or "" if all are of qra and its libraries.

    Settings and weights do not reveal changes in the code of a user's own classes and functions. Those without a source
    file are ignored.
    """
    files = set()
    for code in {code for each in _inside(objects) for code in _code(each)}:
        if not is_of_library(code):
            try:
                files.add(inspect.getsourcefile(code))
            except (TypeError, OSError):  # defined in a shell
                continue
    contents = sorted(Path(file).read_bytes() for file in files if file is not None and Path(file).is_file())
    return hashlib.sha256(b"\0".join(contents)).hexdigest() if contents else ""


def _inside(objects: Sequence[object]) -> list[Any]:
    """Return objects and what they hold in fields, lists, mappings and partial functions, with all of a network."""
    found: dict[int, Any] = {}
    left: list[Any] = list(objects)
    while left:
        each = left.pop()
        if id(each) not in found:
            found[id(each)] = each
            left += _held(each)
    return list(found.values())


def _held(each: Any) -> list[Any]:
    if isinstance(each, list | tuple):
        return list(each)
    if isinstance(each, partial):
        return [each.func, each.args, each.keywords]
    fields = each if isinstance(each, Mapping) else getattr(each, "__dict__", {})
    return [] if isinstance(each, type) else list(fields.values())


def _code(each: Any) -> Sequence[Any]:
    """Return what defines an object: a function itself, or its class and those that it derives from."""
    if inspect.isfunction(each):
        return [each]
    return (each if isinstance(each, type) else type(each)).__mro__


class ChunkFiles:
    """A directory that records which attack first broke each example of a test set, with one file per chunk.

    The directory's name ends in a hash of everything that the results depend on, so that evaluations with different
    settings never share one. A subclass may store another array per example.

    Args:
        parent: Parent directory; the directory is created in it if missing.
        name: Name of the evaluation.
        settings: Everything that the files depend on, flat and ready for JSON.
        chunks: Positions of the examples of each chunk in the test set.
        count: Number of attacks that may have broken an example.
    """

    array = "first_broken_by"
    """Name of the stored array."""

    def __init__(
        self, parent: Path, name: str, settings: Mapping[str, Any], chunks: Sequence[Tensor], count: int
    ) -> None:
        self.chunks, self._count = chunks, count
        self._digest = digest(settings)
        self.directory = parent / f"{name}-{self._digest[:8]}"
        self.directory.mkdir(parents=True, exist_ok=True)
        write_json(self.directory / "settings.json", settings)

    def read(self, number: int) -> Tensor | None:
        """Return the stored array of a chunk, or None if it is missing, truncated or of other settings or examples."""
        try:
            arrays = read_npz(self._path(number), follow=False)
            settings, indices, found = (arrays[name] for name in ("settings", "indices", self.array))
        except (OSError, ValueError, KeyError):
            return None
        same = str(settings) == self._digest and np.array_equal(indices, self.chunks[number].numpy())
        return torch.from_numpy(found) if same and self._can_be(found, len(indices)) else None

    def _can_be(self, found: NDArray[Any], n: int) -> bool:
        """Return whether an array is a valid result for n examples."""
        return found.dtype == np.uint8 and found.shape == (n,) and bool((found <= self._count + 1).all())

    def write(self, number: int, found: Tensor) -> None:
        """Write the array of a chunk atomically."""
        arrays = {
            "settings": np.array(self._digest),
            "indices": self.chunks[number].numpy(),
            self.array: found.numpy(),
        }
        write_arrays(self._path(number), arrays)

    def _path(self, number: int) -> Path:
        return self.directory / f"chunk-{number:05d}.npz"
