"""Running one cell: those of its commands that are not done yet, each in a process of its own."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from qra.evaluation.chunks import CHUNKS
from qra.evaluation.store import EARLIER, move_aside
from qra.runs import completion
from qra.runs.signals import EXIT_CODE, SIGNALS
from qra.study.directory import POLL, State, Task, has_result, locked, read_record, state, unfinished, write_record

_STOPPED = {code: number.name for number in SIGNALS for code in (EXIT_CODE + number, -number)}
"""Name of the signal that stopped a command, by exit code."""


def run_cell(task: Task, stopped: Callable[[], bool] = lambda: False) -> State:
    """Run what remains of a cell; if several processes try, one runs it and the others wait.

    Args:
        task: The cell.
        stopped: Function that returns whether to give up; the cell can be resumed later.

    Returns:
        How it ended: done, failed or stopped, or missing if it was given up.

    Raises:
        ValueError: If its directory holds something else.
        OSError: If its directory cannot be written.
    """
    directory = task.directory
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory, stopped) as lock:
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
    seconds = {} if (record := read_record(task.directory)) is None else dict(record["seconds"])
    if not Path(task.root, task.cell.checkpoint).exists() or unfinished(task):
        seconds.pop("fit", None)
    seconds.pop("test", None)
    (task.directory / "result.json").unlink(missing_ok=True)
    write_record(task, State("running", None, seconds))
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
        reason = reason or (unfinished(task) if command[0] == "fit" else None)
        if reason is not None:
            return write_record(task, State("failed", f"{command[0]}: {reason}", seconds))
        seconds = {**seconds, command[0]: round(time.monotonic() - began, 1)}
        write_record(task, State("running", None, seconds))
    if not has_result(task.directory):
        return write_record(task, State("failed", "test: wrote no complete result.json", seconds))
    return write_record(task, State("done", None, seconds))


def _execute(task: Task, command: list[str], lock: IO[bytes], stopped: Callable[[], bool]) -> tuple[int, str | None]:
    """Run one command; return its exit code and why it failed, if it did. The process inherits and keeps the lock."""
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
                time.sleep(POLL)
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
    """Return why a command failed, in one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("qra: error: ") for line in lines if line.startswith("qra: error: ")]
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if errors:
        return errors[-1]
    return lines[-1] if lines else f"exit code {code}"


def _is_of_another_version(task: Task) -> bool:
    record = read_record(task.directory)
    return record is not None and record["hash"] != task.hash


def _clear(task: Task) -> None:
    """Remove what another version of the cell has left.

    Results move to ``earlier/``. Chunks of attacks are kept, and so is the training if it is done and was the same.
    """
    try:
        record = read_record(task.directory) or {"seconds": {}}
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
