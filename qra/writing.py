"""Files that are written whole or not at all: by a kill, a full disk or a power cut they stay what they were."""

from __future__ import annotations

import fcntl
import glob
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike

PARTIAL = ".partial"
"""Ending of the temporary file that takes the place of another once it is whole."""


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of ``path`` once all of it is on the disk.

    It lies beside ``path``, for only within a file system a rename is one step. Whoever writes a file removes what
    killed writers of the same file have left.

    Args:
        path: The file to replace; its directory is there.

    Raises:
        OSError: If it cannot be written, with its name; what was there before is as it was.
    """
    path = Path(path)
    try:
        _remove_stale(path)
        with ExitStack() as undone, _partial(path) as file:
            undone.callback(Path(file.name).unlink, missing_ok=True)
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
            undone.pop_all()
        _sync(path.parent)
    except OSError as reason:
        if reason.filename is not None:
            raise
        raise OSError(reason.errno, reason.strerror or str(reason), str(path)) from reason


def _partial(path: Path) -> IO[bytes]:
    """A new file beside ``path``, locked as long as it is written, so that nobody takes it for a left one."""
    while True:
        file = open(path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{PARTIAL}"), "xb")  # noqa: SIM115
        with suppress(OSError):  # there are file systems without locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.exists(file.name):  # else it was removed before it was locked
            return file
        file.close()


def _remove_stale(path: Path) -> None:
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{PARTIAL}"):
        with suppress(OSError):  # it is written at this moment, or another process was faster
            descriptor = os.open(left, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            finally:
                os.close(descriptor)


@contextmanager
def filling(directory: str | Path) -> Iterator[Path]:
    """A directory to write files into that all come to be in ``directory`` once they are whole, or none of them.

    Args:
        directory: Directory that is new or empty; those above it are made.
    """
    directory = Path(directory).resolve()
    directory.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(directory)
    partial = directory.with_name(f".{directory.name}.{uuid.uuid4().hex[:12]}{PARTIAL}")
    partial.mkdir()
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        with suppress(OSError):  # there are file systems without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield partial
        if directory.exists():  # it may be somebody's working directory, or have rights of its own
            for file in partial.iterdir():
                os.replace(file, directory / file.name)
        else:
            os.replace(partial, directory)
        _sync(directory)
        _sync(directory.parent)
    finally:
        os.close(descriptor)
        shutil.rmtree(partial, ignore_errors=True)


def _sync(directory: Path) -> None:
    """Put the names in a directory on the disk, where the file system can do that."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as file:
        file.write(content)


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_bytes(path, f"{json.dumps(content, indent=2)}\n".encode())


def write_arrays(path: str | Path, arrays: Mapping[str, ArrayLike], compressed: bool = False) -> None:
    """Write arrays, by name, as an ``npz`` file, whole or not at all."""
    named: dict[str, Any] = dict(arrays)
    with replacing(path) as file:
        save = np.savez_compressed if compressed else np.savez
        save(file, **named)
