"""Exclusive write access to a run directory, which one process has at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from qra.writing import write_bytes

LOCK = ".writer"
"""File that the writer of a run directory holds a lock on, and that identifies the writer."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class Claim:
    """Exclusive right of this process to write to a run directory, until it releases it or dies.

    Args:
        directory: The directory; created if necessary.
        command: Name by which other processes know this one.

    Raises:
        ValueError: If another process writes to the directory.
        OSError: If the directory cannot be created or written.
    """

    def __init__(self, directory: Path, command: str) -> None:
        self.directory = directory
        self._made = [path for path in (directory, *directory.parents) if not path.exists()]
        with ExitStack() as undo:
            undo.callback(self._remove_directories)
            directory.mkdir(parents=True, exist_ok=True)
            self._shared = any(directory.iterdir())  # not only for this run; it may be somebody's home directory
            self._file = self._lock(command)
            undo.pop_all()
        self._before = set(self._own())
        self._records = {path: path.read_bytes() for path in self._before if _is_record(path)}

    def release(self, keep: bool) -> None:
        """Release the directory to other processes.

        Args:
            keep: Whether to keep what was written. Otherwise new files and directories are removed, and changed configs
                and records are restored: all of them if the directory was empty, else only those that runs write.
        """
        if not keep:
            self._remove_what_is_new()
        if self._file is not None:
            (self.directory / LOCK).unlink(missing_ok=True)  # before another process can get the lock
            self._file.close()
            self._file = None
        if not keep:
            self._remove_directories()

    def _lock(self, command: str) -> IO[str] | None:
        path = self.directory / LOCK
        while True:
            file = open(path, "a+")  # noqa: SIM115 - stays open while this process writes here
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with file:
                    raise ValueError(f"{self.directory} is written by {_writer(file)}: {_WAY_OUT}") from None
            except OSError as reason:
                file.close()
                if reason.errno not in _NO_LOCKS:
                    raise
                path.unlink(missing_ok=True)
                print(f"qra: {self.directory}: {_UNLOCKED}", file=sys.stderr)
                return None
            if _is_same(file, path):
                break
            file.close()  # the previous writer has removed it in the meantime
        file.truncate(0)
        json.dump({"host": socket.gethostname(), "process": os.getpid(), "command": command}, file)
        file.flush()
        return file

    def _remove_what_is_new(self) -> None:
        new = set(self._own()) - self._before
        for path in sorted(new, reverse=True):  # the contents of a directory come before it
            with suppress(OSError):  # a directory may contain another run
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        for path, content in self._records.items():
            if not path.exists() or path.read_bytes() != content:
                write_bytes(path, content)

    def _remove_directories(self) -> None:
        """Remove the directories that were created, unless others have put something there."""
        for path in self._made:  # the innermost first
            with suppress(OSError):
                path.rmdir()

    def _own(self) -> Iterator[Path]:
        """Yield the files and directories that belong to this run."""
        for path in self.directory.iterdir():
            if not self._shared or path.name in _WRITTEN or path.suffix == ".ckpt":
                yield from _with_contents(path)


def _with_contents(path: Path) -> Iterator[Path]:
    """Yield a file, or a directory and its contents, except for what belongs to other runs."""
    if not path.is_dir() or path.is_symlink():
        yield path
    elif not any((path / name).exists() for name in _OF_RUNS):
        yield path
        for inner in path.iterdir():
            yield from _with_contents(inner)


_OF_RUNS = (LOCK, "run.json", "last.ckpt", "cell.json")
"""Files by which a run directory is recognized."""
_WRITTEN = (
    *("config.yaml", "run.json", "training.json", "result.json", "robustbench.json", "correct.npz", "radii.npz"),
    *("error.txt", "hparams.yaml", "tensorboard", "chunks", "figures", "test", "validate", "predict"),
)
"""What a run writes to its directory, besides checkpoints."""
_LARGEST_RECORD = 2**20
_WAY_OUT = "wait for it or end it, or write to another directory by --run"
_UNLOCKED = "this file system has no locks, so nothing keeps a second process from writing here too"


def _is_record(path: Path) -> bool:
    return path.suffix in (".yaml", ".json") and path.is_file() and path.stat().st_size < _LARGEST_RECORD


def _is_same(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _writer(file: IO[str]) -> str:
    """Return a description of the process that a lock file names."""
    file.seek(0)
    try:
        named = json.loads(file.read(4096))
        return f"{str(named['command'])[:40]!r}, process {int(named['process'])} on {str(named['host'])[:80]!r}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "another process"
