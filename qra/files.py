"""Safe reading of untrusted files: only regular ones, within size limits, running no code."""

from __future__ import annotations

import json
import math
import os
import stat
import zipfile
from contextlib import ExitStack
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from qra.errors import plain as plain
from qra.errors import reason_of
from qra.nesting import is_deeper

CHECKPOINT_LIMIT = 2**32
"""Maximum bytes of a checkpoint, compressed and uncompressed."""
TEXT_LIMIT = 64 * 10**6
"""Maximum bytes of a JSON or YAML file."""
ARRAY_LIMIT = 2**31
"""Maximum bytes of the arrays in an ``.npz`` file together, or of those read from an ``.npy`` file."""
IMAGE_LIMIT = 2**30
"""Maximum bytes of an image file."""
JSON_DEPTH = 100
"""Maximum nesting depth of lists and mappings in a JSON file."""


def open_regular(path: str | Path, limit: int, follow: bool = True) -> BufferedReader:
    """Open a file for reading if it is a regular one; a pipe would block, and a device might never end.

    Args:
        path: The file.
        limit: Maximum size in bytes.
        follow: Whether to follow a symbolic link.

    Raises:
        ValueError: If it is not a regular file, is a link that is not followed, or is larger than ``limit``.
        OSError: If it cannot be opened.
    """
    if not follow and os.path.islink(path):
        raise ValueError(f"{path}: is a symbolic link, which is not followed: put the file itself there")
    link = 0 if follow else os.O_NOFOLLOW
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | link)
    with ExitStack() as undo:
        undo.callback(os.close, descriptor)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "is a directory: name a file in it" if stat.S_ISDIR(status.st_mode) else "is not a regular file"
            raise ValueError(f"{path}: {kind}")
        if status.st_size > limit:
            raise ValueError(f"{path}: has {status.st_size} bytes, more than the limit of {limit}")
        undo.pop_all()
    return os.fdopen(descriptor, "rb")


def read_text(path: str | Path) -> str:
    """Read a whole UTF-8 file, without a byte order mark; errors are those of :func:`open_regular`.

    Raises:
        ValueError: Also if it grows beyond the limit while being read, or is not UTF-8.
    """
    try:
        return _read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        raise ValueError(f"{path}: is not UTF-8 text (byte {reason.start})") from None


def _read_bytes(path: str | Path, follow: bool = True) -> bytes:
    with open_regular(path, TEXT_LIMIT, follow) as file:
        content = file.read(TEXT_LIMIT + 1)
    if len(content) > TEXT_LIMIT:
        raise ValueError(f"{path}: has more than the limit of {TEXT_LIMIT} bytes")
    return content


def read_json(path: str | Path, follow: bool = True) -> Any:
    """Read a JSON file; arguments and errors are those of :func:`open_regular`.

    Raises:
        ValueError: Also if it is truncated, not JSON, or nested deeper than 100 levels.
    """
    text = _read_bytes(path, follow)
    try:
        content = json.loads(text)
    except (ValueError, MemoryError):
        raise ValueError(f"{path}: is truncated or not JSON") from None
    except RecursionError:
        raise ValueError(_too_deep(path)) from None
    if is_deeper(content, JSON_DEPTH):
        raise ValueError(_too_deep(path))
    return content


def _too_deep(path: str | Path) -> str:
    return f"{path}: is truncated or not JSON (or nested deeper than {JSON_DEPTH})"


def read_npz(path: str | Path, limit: int = ARRAY_LIMIT, follow: bool = True) -> dict[str, NDArray[Any]]:
    """Read all arrays of an ``.npz`` file, allocating no more memory than the file holds data for.

    Args:
        path: The file.
        limit: Maximum size of all arrays together, in bytes.
        follow: Whether to follow a symbolic link.

    Raises:
        ValueError: If it is not an ``.npz`` file, is damaged, holds Python objects, or is larger than ``limit``.
        OSError: If it cannot be opened.
    """
    with open_regular(path, limit, follow) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > limit:
                    raise ValueError(f"holds more than the limit of {limit} bytes")
                return {entry.filename.removesuffix(".npy"): _array(archive, entry) for entry in archive.infolist()}
        except Exception as reason:  # on damaged bytes, readers raise all kinds of exceptions
            raise ValueError(f"{path}: is truncated or damaged ({reason_of(reason)})") from None


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(entry) as member:
        _header(member, entry.filename, entry.file_size)
    with archive.open(entry) as member:
        array: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
        return array


def _header(member: IO[bytes], name: str, size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether the order is Fortran's, and dtype of an ``.npy`` file of ``size`` bytes."""
    version = np.lib.format.read_magic(member)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise ValueError(f"{name} is of format {version}")
    shape, columns_first, dtype = read_header[version](member)
    claimed = dtype.itemsize * math.prod(shape)
    if min((0, *shape)) < 0 or claimed > size:
        raise ValueError(f"{name} claims {claimed} bytes, but holds {size}")
    return shape, columns_first, dtype


def read_npy(path: str | Path, part: int = 0, parts: int = 1) -> NDArray[Any]:
    """Read an ``.npy`` file, or only one of several equal parts of its rows.

    Args:
        path: The file.
        part: Number of the part, from 0.
        parts: Number of consecutive parts that the rows are divided into.

    Raises:
        ValueError: If it is not an ``.npy`` file, is truncated, holds Python objects, cannot be divided that way, or
            is so large that a part exceeds the limit.
        OSError: If it cannot be opened.
    """
    with open_regular(path, parts * ARRAY_LIMIT) as file:
        try:
            shape, columns_first, dtype = _header(file, "it", os.fstat(file.fileno()).st_size)
            if dtype.hasobject or not shape or (columns_first and parts > 1):
                raise ValueError(f"holds {'Python objects' if dtype.hasobject else 'no rows one after the other'}")
            if shape[0] % parts:
                raise ValueError(f"has {shape[0]} rows, which do not divide into {parts} equal parts")
            shape = (shape[0] // parts, *shape[1:])
            file.seek(part * dtype.itemsize * math.prod(shape), os.SEEK_CUR)
            array = np.fromfile(file, dtype, math.prod(shape))
            if array.size != math.prod(shape):
                raise ValueError("is truncated")
        except Exception as reason:
            raise ValueError(f"{path}: is not a readable .npy file ({reason_of(reason)})") from None
    return array.reshape(shape, order="F" if columns_first else "C")


def no_formula(text: str) -> str:
    """Return text for a CSV file, quoted if a spreadsheet would evaluate it as a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "@") or (text[:1] == "-" and text[1:]) else text


def safetensors_metadata(content: bytes) -> dict[str, str]:
    """Return the string metadata in the header of a safetensors file; empty if there is none.

    Args:
        content: Content of the whole file.
    """
    length = int.from_bytes(content[:8], "little")
    try:
        found = json.loads(content[8 : 8 + length]).get("__metadata__")
    except (ValueError, RecursionError, AttributeError):
        return {}
    return {key: text for key, text in found.items() if isinstance(text, str)} if isinstance(found, dict) else {}
