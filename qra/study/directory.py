"""What the directory of a cell says: how far it is, what it is a cell of, who is at work in it."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from qra.describe import differences, digest, without_empty
from qra.evaluation.outcome import READABLE
from qra.files import plain, read_json
from qra.renamed import present
from qra.runs import completion
from qra.study.grid import Cell
from qra.writing import write_json

SCHEMA = 1
"""Version of ``cell.json``; it changes when a key changes its meaning."""

_LONGEST = 1e9
"""Seconds that no cell takes."""
POLL = 0.1
"""Seconds between looks at a process or a lock."""


@dataclass(frozen=True)
class Task:
    """All that is needed to run a cell, on any machine.

    Args:
        study: Name of the study.
        cell: The cell.
        definition: What defines it.
        threads: Threads of its processes.
        root: Directory that all paths are relative to.
        redo: Whether to run it again where an earlier version of it, or a failure, has left something.
    """

    study: str
    cell: Cell
    definition: Mapping[str, Any]
    threads: int
    root: str
    redo: bool = False

    @property
    def directory(self) -> Path:
        """The directory of the cell."""
        return Path(self.root, self.cell.directory)

    @property
    def hash(self) -> str:
        """A hash of all that defines the cell."""
        return digest(self.definition)


@dataclass(frozen=True)
class State:
    """How far a cell is.

    Args:
        name: ``done``, ``running``, ``failed`` or ``missing``; ``stopped`` when a signal has just ended a command of
            it; ``changed`` if made by another version of the study, ``foreign`` if by no study.
        reason: Why it failed, was stopped or is missing, what has changed.
        seconds: Time of each finished command.
    """

    name: str
    reason: str | None = None
    seconds: Mapping[str, float] | None = None


def state(task: Task) -> State:
    """Look at the directory of a cell."""
    try:
        record = read_record(task.directory)
    except ValueError as reason:
        return State("changed", str(reason))
    if record is None:
        left = [name for name in ("last.ckpt", "result.json") if (task.directory / name).exists()]
        return State("foreign", f"{left[0]} is of no study") if left else State("missing")
    seconds = record.get("seconds", {})
    if record.get("hash") != task.hash and record.get("state") == "failed" and not seconds:
        return State("missing", "another version of it failed")
    if record.get("hash") != task.hash:
        changed = list(differences(record.get("definition"), task.definition))
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        return State("changed", f"{changed[0]}{more}" if changed else "it is of another version of qra")
    if record["state"] == "failed":
        return State("failed", record.get("reason"), seconds)
    if record["state"] == "done":
        lack = _lack(task)
        return State("missing", lack, seconds) if lack else State("done", None, seconds)
    if _is_locked(task.directory):
        return State("running", None, seconds)
    return State("missing", "it was interrupted", seconds)


def unfinished(task: Task) -> str | None:
    """What the cell's own training lacks, as far as its directory says so."""
    training = completion.read(task.directory) if task.cell.trains else None
    return None if training is None or training.finished else f"its training is {training}"


def _lack(task: Task) -> str | None:
    """What keeps a cell that ran to its end from being done."""
    return unfinished(task) or (None if has_result(task.directory) else "its result.json is not whole")


def has_result(directory: Path) -> bool:
    """Whether a directory holds a whole ``result.json``."""
    result = _read(directory / "result.json")
    return result is not None and result.get("schema") in READABLE and bool(result.get("outcomes"))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = read_json(path, follow=False)
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_record(directory: Path) -> dict[str, Any] | None:
    """What ``cell.json`` says; None if there is none, or no JSON.

    Raises:
        ValueError: If it is of another version, cannot be opened, or lacks something.
    """
    try:
        record = _read(directory / "cell.json")
    except OSError as reason:
        raise ValueError(f"its cell.json: {reason.strerror}") from None
    if record is None:
        return None
    if (schema := record.get("schema")) != SCHEMA:
        raise ValueError(f"its cell.json is of schema {schema}, not {SCHEMA}")
    kinds = {"hash": str, "state": str, "seconds": dict, "definition": dict}
    for key, kind in kinds.items():
        if not isinstance(record.get(key), kind):
            raise ValueError(f"its cell.json has no {key}")
    for step, seconds in record["seconds"].items():
        if type(seconds) not in (int, float) or not 0 <= seconds < _LONGEST:
            raise ValueError(
                f"its cell.json: seconds of {plain(step)[:40]} are {plain(seconds)[:40]}, which is no time"
            )
    if not isinstance(record.get("reason"), str | None):
        raise ValueError("its cell.json: reason is no text")
    definition = without_empty(present(record["definition"], lambda old, new: None))
    same = definition == record["definition"]
    return record if same else {**record, "definition": definition, "hash": digest(definition)}


def write_record(task: Task, found: State) -> State:
    """Write ``cell.json``: what the cell is, and how far.

    Returns:
        How far it is.
    """
    cell = task.cell
    record = {
        "schema": SCHEMA,
        "study": task.study,
        "name": cell.name,
        "stage": cell.stage,
        "coordinates": dict(cell.coordinates),
        "needs": list(cell.needs),
        "commands": [list(command) for command in cell.commands],
        "hash": task.hash,
        "state": found.name,
        "reason": found.reason,
        "seconds": dict(found.seconds or {}),
        "threads": task.threads,
        "definition": task.definition,
    }
    write_json(task.directory / "cell.json", record)
    return found


@contextmanager
def locked(directory: Path, stopped: Callable[[], bool]) -> Iterator[IO[bytes] | None]:
    """Hold the lock of a cell; None if stopped while another process holds it."""
    with open(directory / ".lock", "wb") as lock:
        while not _try_lock(lock):
            if stopped():
                yield None
                return
            time.sleep(POLL)
        yield lock


def _try_lock(lock: IO[bytes], kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_locked(directory: Path) -> bool:
    """Whether a process is at work there; looking writes nothing, and needs no right to write."""
    try:
        with open(directory / ".lock", "rb") as lock:
            return not _try_lock(lock, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False
