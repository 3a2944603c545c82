"""Safe reading of checkpoint files, which are untrusted: plain values and tensors, within limits, no code run."""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor, nn

from qra import rebuild, weights
from qra.files import CHECKPOINT_LIMIT, open_regular, safetensors_metadata
from qra.nesting import is_larger
from qra.pickle_check import tuple_sizes

KEY = "qra"
"""Key of a checkpoint's description: ``{"network": description, "scheme": description or None}``."""

_REMEDY = (
    "if you trust it, save only its weights, by torch.save(torch.load(FILE, weights_only=False)[KEY], NEW) with "
    "the KEY of its state_dict"
)
_ENTRIES = 500_000
"""Maximum number of entries in all mappings and lists of a checkpoint; a small pickle can create any number of them."""
_PICKLES = 5
"""Number of consecutive pickles in a file of the older format; in an archive, an entry has one."""
_POINTER = b"version https://git-lfs"
"""First bytes of a Git LFS pointer, which replaces a large file."""


class _RefusedError(ValueError):
    """A file was refused; the message says what is wrong with it."""


def read(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, or a file of weights in any layout, without running any code from it.

    Args:
        path: A file written by a run, by ``torch.save`` (including its old versions), or in the safetensors format.

    Returns:
        The content, a mapping that holds tensors.

    Raises:
        ValueError: If the file does not exist, is truncated or too large, or holds pickled objects or no weights.
    """
    try:
        with open_regular(path, CHECKPOINT_LIMIT) as file:
            content = _parse(file)
    except FileNotFoundError:
        meant = f": did you mean {path}.ckpt?" if Path(f"{path}.ckpt").is_file() else ""
        raise ValueError(f"{path}: there is no such checkpoint{meant}") from None
    except pickle.UnpicklingError as reason:
        found = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(reason))
        if found is None:
            raise ValueError(
                f"{path}: is not a checkpoint, neither of torch.save nor in the safetensors format"
            ) from None
        held = f"holds pickled objects ({found[1]}), which could run code when read"
        raise ValueError(f"{path}: {held}: {_REMEDY}") from None
    except (RecursionError, MemoryError):
        raise ValueError(f"{path}: cannot be read: it is larger or nested deeper than a checkpoint") from None
    except _RefusedError as reason:
        raise ValueError(f"{path}: {reason}") from None
    except PermissionError:
        raise ValueError(f"{path}: cannot be read: change its permissions") from None
    except Exception as reason:  # on damaged bytes, readers raise all kinds of exceptions
        if str(path) in str(reason) and isinstance(reason, ValueError):
            raise
        what = f"it may be truncated or not a checkpoint ({type(reason).__name__})"
        raise ValueError(f"{path}: cannot be read, {what}") from None
    try:
        return _checked(content)
    except ValueError as reason:
        raise ValueError(f"{path}: {reason}") from None


def _parse(file: IO[bytes]) -> Any:
    """Return the content of a file, whose format is recognized by its first bytes."""
    start = file.read(len(_POINTER))
    file.seek(0)
    if start == _POINTER:
        raise _RefusedError("is a Git LFS pointer instead of a checkpoint: fetch the file by git lfs pull")
    if len(start) >= 10 and start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] < CHECKPOINT_LIMIT:
        try:
            return _described(file.read(CHECKPOINT_LIMIT))
        except SafetensorError as reason:
            raise EOFError(str(reason)) from None
    if start.startswith(b"PK"):
        _check_archive(file)
    else:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            _check_pickles(whole)
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about kinds of tensors that are refused below
        return torch.load(file, map_location="cpu", weights_only=True)


def _described(content: bytes) -> dict[str, Any]:
    """Return the tensors of a safetensors file, with the description in its header if there is one."""
    tensors, about = parse_safetensors(content), safetensors_metadata(content).get(KEY)
    return tensors if about is None else {"state_dict": tensors, KEY: json.loads(about)}


def _check_archive(file: IO[bytes]) -> None:
    """Reject an archive that would unpack to more than a checkpoint may, is damaged, or is a TorchScript program."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > CHECKPOINT_LIMIT or len(entries) > 10**6:
            raise MemoryError
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            remedy = "if you trust it, save its weights, by torch.save(torch.jit.load(FILE).state_dict(), NEW)"
            raise _RefusedError(f"is a TorchScript program: {remedy}")
        if (damaged := archive.testzip()) is not None:  # torch itself does not check this
            raise _RefusedError(f"is damaged: the checksum of {damaged} in it is wrong")
        for entry in entries:
            if entry.filename.endswith(".pkl"):
                _check_pickles(archive.read(entry))


def _check_pickles(content: bytes | mmap.mmap) -> None:
    """Reject pickles in which torch would allow objects of unlimited size."""
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    if content.find(b"bytearray\n") >= 0 or any(size > _ENTRIES for _ in range(_PICKLES) for size in tuple_sizes(file)):
        raise MemoryError


def _checked(content: Any) -> dict[str, Any]:
    """Return the content as a mapping with weights and, if there is one, a description of plain values.

    Raises:
        ValueError: If the content has another form or is too large.
    """
    if isinstance(content, nn.Parameter | Tensor) or not isinstance(content, Mapping | list | tuple):
        raise ValueError("is not a checkpoint of a run: it has no state_dict")
    if not isinstance(content, Mapping):
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in content):
            raise ValueError("is not a checkpoint of a run: it has no state_dict")
        content = dict(content)
    if is_larger(content, _ENTRIES):
        raise ValueError(f"has more than the {_ENTRIES:,} entries that a checkpoint may have")
    places = dict(weights.containers(content))
    if not places:
        raise ValueError("is not a checkpoint of a run: it has no state_dict")
    if sum(tensor.numel() * tensor.element_size() for tensor in places[""].values()) > CHECKPOINT_LIMIT:
        raise ValueError(f"its tensors take more than {CHECKPOINT_LIMIT} bytes")
    about = content.get(KEY)
    if about is not None:
        if not isinstance(about, Mapping):
            raise ValueError(f"describes its content by a {type(about).__name__}, not a mapping")
        rebuild.check_plain(about)
    return dict(content)


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with open_regular(path, CHECKPOINT_LIMIT) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
