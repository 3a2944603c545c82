"""Running one cell, and what its directory says of it."""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from qra.describe import differences, digest, without_empty
from qra.evaluation.chunks import CHUNKS
from qra.evaluation.outcome import READABLE
from qra.evaluation.store import EARLIER, move_aside
from qra.files import read_json
from qra.renamed import present
from qra.runs import completion
from qra.runs.signals import EXIT_CODE, SIGNALS
from qra.study.grid import Cell
from qra.writing import write_json

SCHEMA = 1
"""Version of ``cell.json``; it changes when a key changes its meaning."""

_STOPPED = {code: number.name for number in SIGNALS for code in (EXIT_CODE + number, -number)}
"""The signal that stopped a command, by its exit code."""

_POLL = 0.1
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
        record = _record(task.directory)
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


def run_cell(task: Task, stopped: Callable[[], bool] = lambda: False) -> State:
    """Run what is left of a cell; of several processes that try, one runs it and the others wait.

    Args:
        task: The cell.
        stopped: Says whether to give up; the cell then can go on later.

    Returns:
        How it ended: done, failed or stopped, or missing if it was given up.

    Raises:
        ValueError: If its directory holds something else.
        OSError: If its directory cannot be written.
    """
    directory = task.directory
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory, stopped) as lock:
        if lock is None:
            return State("missing", "it was interrupted")
        before = state(task)
        if before.name == "done":
            return before
        if before.name == "foreign" or (before.name == "changed" and not task.redo):
            raise ValueError(f"{task.cell.directory}: {before.reason}")
        if before.name == "changed" or (task.redo and before.name == "failed") or _is_of_another_version(task):
            _clear(task)
        try:
            return _run_commands(task, lock, stopped)
        except OSError as reason:
            if reason.errno != errno.ENOSPC:
                raise
            raise OSError(
                f"{directory}: no space left on the disk; what is done stays: make room and run again"
            ) from None


def _run_commands(task: Task, lock: IO[bytes], stopped: Callable[[], bool]) -> State:
    seconds = {} if (record := _record(task.directory)) is None else dict(record["seconds"])
    if not Path(task.root, task.cell.checkpoint).exists() or _unfinished(task):
        seconds.pop("fit", None)
    seconds.pop("test", None)
    (task.directory / "result.json").unlink(missing_ok=True)
    _write(task, State("running", None, seconds))
    for command in task.cell.commands:
        if command[0] in seconds:
            continue
        resumed = command[0] == "fit" and (task.directory / "last.ckpt").exists()
        began = time.monotonic()
        code, reason = _execute(task, [*command, *(("--ckpt_path", "last") if resumed else ())], lock, stopped)
        if stopped():
            return State("missing", "it was interrupted", seconds)
        if code in _STOPPED:
            return State("stopped", f"{command[0]} was stopped by {_STOPPED[code]}", seconds)
        reason = reason or (_unfinished(task) if command[0] == "fit" else None)
        if reason is not None:
            return _write(task, State("failed", f"{command[0]}: {reason}", seconds))
        seconds = {**seconds, command[0]: round(time.monotonic() - began, 1)}
        _write(task, State("running", None, seconds))
    if not has_result(task.directory):
        return _write(task, State("failed", "test: wrote no whole result.json", seconds))
    return _write(task, State("done", None, seconds))


def _execute(task: Task, command: list[str], lock: IO[bytes], stopped: Callable[[], bool]) -> tuple[int, str | None]:
    """Run one command; return its exit code and why it failed, if it did. The lock lasts as long as the process."""
    threads = str(task.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "COLUMNS": "120"}
    with open(task.directory / "log.txt", "a+b") as log:
        log.write(f"$ {shlex.join(['qra', *command])}\n".encode())
        log.flush()
        start = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "qra", *command],
            cwd=task.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[lock.fileno()],
        )
        try:
            while process.poll() is None and not stopped():
                time.sleep(_POLL)
        finally:
            _end(process)
        if process.returncode == 0:
            return 0, None
        log.seek(start)
        return process.returncode, _reason(log.read().decode(errors="replace"), process.returncode)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _reason(output: str, code: int) -> str:
    """Why a command failed, in one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("qra: error: ") for line in lines if line.startswith("qra: error: ")]
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if errors:
        return errors[-1]
    return lines[-1] if lines else f"exit code {code}"


def _unfinished(task: Task) -> str | None:
    """What the cell's own training lacks, as far as its directory says so."""
    training = completion.read(task.directory) if task.cell.trains else None
    return None if training is None or training.finished else f"its training is {training}"


def _lack(task: Task) -> str | None:
    """What keeps a cell that ran to its end from being done."""
    return _unfinished(task) or (None if has_result(task.directory) else "its result.json is not whole")


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


def _record(directory: Path) -> dict[str, Any] | None:
    """What ``cell.json`` says; None if there is none, or no JSON.

    Raises:
        ValueError: If it is of another version, or lacks something.
    """
    record = _read(directory / "cell.json")
    if record is None:
        return None
    if (schema := record.get("schema")) != SCHEMA:
        raise ValueError(f"its cell.json is of schema {schema}, not {SCHEMA}")
    kinds = {"hash": str, "state": str, "seconds": dict, "definition": dict}
    for key, kind in kinds.items():
        if not isinstance(record.get(key), kind):
            raise ValueError(f"its cell.json has no {key}")
    definition = without_empty(present(record["definition"], lambda old, new: None))
    same = definition == record["definition"]
    return record if same else {**record, "definition": definition, "hash": digest(definition)}


def _is_of_another_version(task: Task) -> bool:
    record = _record(task.directory)
    return record is not None and record["hash"] != task.hash


def _write(task: Task, found: State) -> State:
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


def _clear(task: Task) -> None:
    """Remove what another version has left.

    What was measured moves to ``earlier/``, chunks of attacks stay, and so does the training if it was the same and is
    done.
    """
    try:
        record = _record(task.directory) or {"seconds": {}}
    except ValueError:
        record = {"seconds": {}}
    kept = {".lock", "log.txt", CHUNKS, EARLIER}
    if "fit" in record["seconds"] and task.definition.get("fit") == record["definition"].get("fit"):
        kept |= {"last.ckpt", "best.ckpt", "config.yaml", "run.json", completion.FILE, "cell.json", "tensorboard"}
    if has_result(task.directory):
        move_aside(task.directory)
    for path in task.directory.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@contextmanager
def _locked(directory: Path, stopped: Callable[[], bool]) -> Iterator[IO[bytes] | None]:
    """Hold the lock of a cell; None if stopped while another process holds it."""
    with open(directory / ".lock", "wb") as lock:
        while not _try_lock(lock):
            if stopped():
                yield None
                return
            time.sleep(_POLL)
        yield lock


def _try_lock(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_locked(directory: Path) -> bool:
    with open(directory / ".lock", "ab") as lock:
        return not _try_lock(lock)
