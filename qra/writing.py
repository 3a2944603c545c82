"""Atomic writing of files: after a kill, a full disk or a power failure the previous file is intact."""

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
"""Suffix of the temporary file that replaces another when it is complete."""


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a temporary file for writing, which replaces ``path`` once all of it is on disk.

    It is in the directory of ``path``, because a rename is atomic only within a file system. Each writer also removes
    temporary files left by killed writers of the same file.

    Args:
        path: File to replace; its directory must exist.

    Raises:
        OSError: If it cannot be written, with the path as its file name; the previous file is unchanged.
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
    """Create a file beside ``path``, locked while it is written so that nobody takes it for an abandoned one."""
    while True:
        file = open(path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{PARTIAL}"), "xb")  # noqa: SIM115
        with suppress(OSError):  # some file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.exists(file.name):  # otherwise another process removed it before it was locked
            return file
        file.close()


def _remove_stale(path: Path) -> None:
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{PARTIAL}"):
        with suppress(OSError):  # it is being written, or another process was faster
            descriptor = os.open(left, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            finally:
                os.close(descriptor)


@contextmanager
def filling(directory: str | Path) -> Iterator[Path]:
    """Yield a temporary directory whose files all move to ``directory`` once they are complete, or none of them.

    Args:
        directory: New or empty directory; its parents are created.
    """
    directory = Path(directory).resolve()
    directory.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(directory)
    partial = directory.with_name(f".{directory.name}.{uuid.uuid4().hex[:12]}{PARTIAL}")
    partial.mkdir()
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield partial
        if directory.exists():  # kept, as it may be a working directory or have permissions of its own
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
    """Flush the entries of a directory to disk, where the file system supports it."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as file:
        file.write(content)


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_bytes(path, f"{json.dumps(content, indent=2)}\n".encode())


def write_arrays(path: str | Path, arrays: Mapping[str, ArrayLike], compressed: bool = False) -> None:
    """Write arrays, by name, to an ``npz`` file, atomically."""
    named: dict[str, Any] = dict(arrays)
    with replacing(path) as file:
        save = np.savez_compressed if compressed else np.savez
        save(file, **named)
