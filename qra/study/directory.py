"""The state of a cell, as recorded in its directory: its progress, its definition, and whether it is running."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
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
"""Version of ``cell.json``; it changes when the meaning of a key changes."""

_LONGEST = 1e9
"""Upper bound, in seconds, of plausible durations."""
POLL = 0.1
"""Seconds between checks of a process or a lock."""


@dataclass(frozen=True)
class Task:
    """Everything needed to run a cell, on any machine.

    Args:
        study: Name of the study.
        cell: The cell.
        definition: Definition of the cell, from :func:`qra.study.definition.define`.
        threads: Number of threads of its processes.
        root: Directory that all paths are relative to.
        redo: Whether to run it again where an earlier version of it, or a failed run, has left files.
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
        """Hash of the cell's definition."""
        return digest(self.definition)


@dataclass(frozen=True)
class State:
    """State of a cell.

    Args:
        name: ``done``, ``running``, ``failed`` or ``missing``; ``stopped`` if a signal has just ended one of its
            commands; ``changed`` if another version of the study made it, ``foreign`` if no study did.
        reason: Why it failed, was stopped or is missing, or what has changed.
        seconds: Duration of each finished command, in seconds.
    """

    name: str
    reason: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


def state(task: Task) -> State:
    """Return the state of a cell, read from its directory."""
    try:
        return _state(task)
    except OSError as reason:
        return State("changed", f"its {Path(str(reason.filename)).name}: {reason.strerror}")


def _state(task: Task) -> State:
    try:
        record = read_record(task.directory)
    except ValueError as reason:
        return State("changed", str(reason))
    if record is None:
        left = [name for name in ("last.ckpt", "result.json") if (task.directory / name).exists()]
        return State("foreign", f"{left[0]} does not belong to a study") if left else State("missing")
    seconds = record["seconds"]
    if record["hash"] != task.hash and record["state"] == "failed" and not seconds:
        return State("missing", "another version of it failed")
    if record["hash"] != task.hash:
        changed = list(differences(record["definition"], task.definition))
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        return State("changed", f"{changed[0]}{more}" if changed else "it is of another version of qra")
    if record["state"] == "failed":
        return State("failed", record.get("reason"), seconds)
    if record["state"] == "done":
        lack = unfinished(task) or (None if has_result(task.directory) else "its result.json is incomplete")
        return State("missing", lack, seconds) if lack else State("done", None, seconds)
    if _is_locked(task.directory):
        return State("running", None, seconds)
    return State("missing", "it was interrupted", seconds)


def unfinished(task: Task) -> str | None:
    """Return what the cell's own training lacks, as far as its directory tells; None if nothing."""
    training = completion.read(task.directory) if task.cell.trains else None
    return None if training is None or training.finished else f"its training is {training}"


def has_result(directory: Path) -> bool:
    """Return whether a directory holds a complete ``result.json``."""
    result = _read(directory / "result.json")
    return result is not None and result.get("schema") in READABLE and bool(result.get("outcomes"))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = read_json(path, follow=False)
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_record(directory: Path) -> dict[str, Any] | None:
    """Return the content of ``cell.json``; None if it does not exist or is not JSON.

    Raises:
        ValueError: If it has another schema version, cannot be opened, or lacks a key or has a wrong value.
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
                f"its cell.json: seconds of {plain(step)[:40]} are {plain(seconds)[:40]}, which is not a time"
            )
    if not isinstance(record.get("reason"), str | None):
        raise ValueError("its cell.json: reason is not text")
    definition = without_empty(present(record["definition"], lambda old, new: None))
    same = definition == record["definition"]
    return record if same else {**record, "definition": definition, "hash": digest(definition)}


def write_record(task: Task, found: State) -> State:
    """Write the cell and its state to ``cell.json``.

    Returns:
        The state.
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
        "seconds": dict(found.seconds),
        "threads": task.threads,
        "definition": task.definition,
    }
    write_json(task.directory / "cell.json", record)
    return found


@contextmanager
def locked(directory: Path, stopped: Callable[[], bool]) -> Iterator[IO[bytes] | None]:
    """Hold the lock of a cell; yield None if stopped while another process holds it."""
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
    """Return whether a process works on the cell; this writes nothing and needs no write permission."""
    try:
        with open(directory / ".lock", "rb") as lock:
            return not _try_lock(lock, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False
