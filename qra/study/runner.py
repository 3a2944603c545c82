"""Running the cells of a study and reporting progress."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from qra.durations import duration
from qra.study.cell import run_cell
from qra.study.definition import define
from qra.study.directory import State, Task, state
from qra.study.grid import Cell
from qra.study.stages import Study


class Workers(Protocol):
    """Resources that run cells."""

    slots: int
    """Number of cells that run at a time."""

    def submit(self, task: Task) -> Future[State]:
        """Run a cell as soon as there is room."""


def tasks(study: Study, cells: Sequence[Cell], redo: bool = False) -> dict[str, Task]:
    """Return the tasks of cells, by name.

    Args:
        study: The study.
        cells: All its cells.
        redo: Whether to run cells again where an earlier version of them, or a failed run, has left files.
    """
    definitions = define(cells)
    root = os.getcwd()
    return {c.name: Task(study.name, c, definitions[c.name], study.threads, root, redo) for c in cells}


def states(work: Mapping[str, Task]) -> dict[str, State]:
    """Return the state of each cell; if one is missing because a cell it needs failed, its reason says so."""
    found: dict[str, State] = {}
    for name, task in work.items():
        found[name] = state(task)
        if found[name].name == "missing" and (cause := _failed_need(task, found)):
            found[name] = State("missing", cause, found[name].seconds)
    return found


def _failed_need(task: Task, found: Mapping[str, State]) -> str | None:
    """Return why a cell cannot be made, if one that it needs failed or was stopped; else None."""
    for need in task.cell.needs:
        reason = found[need].reason if need in found else None
        if need in found and found[need].name in ("failed", "stopped"):
            return f"it needs {need}, which {'failed' if found[need].name == 'failed' else 'was stopped'}"
        if reason is not None and reason.startswith("it needs "):
            return reason
    return None


def check_versions(found: Mapping[str, State], work: Mapping[str, Task], redo: bool = False) -> None:
    """Check that no directory was made by another version of the study, unless cells are redone, or by no study.

    Raises:
        ValueError: If one was; the message says what has changed.
    """
    for name in (name for name in work if found[name].name == "foreign"):
        raise ValueError(
            f"{work[name].cell.directory}: {found[name].reason}; move it away, or give the study another name"
        )
    changed = [name for name in work if found[name].name == "changed"]
    if changed and not redo:
        first = work[changed[0]].cell.directory
        many = f"{len(changed)} cells are" if len(changed) > 1 else "1 cell is"
        raise ValueError(
            f"{many} of another version of the study, first {first}: {found[changed[0]].reason}; run them again by "
            "--redo, or give the study another name"
        )


class Estimate:
    """Estimated duration of cells from those measured: the mean of their stage, or of all."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}

    def measured(self, stage: str, found: State) -> None:
        """Record the durations of a finished cell."""
        self._seconds.setdefault(stage, []).append(sum(found.seconds.values()))

    def of(self, stage: str) -> float | None:
        """Return the seconds that a cell of a stage takes; None if nothing was measured yet."""
        known = self._seconds.get(stage) or [second for times in self._seconds.values() for second in times]
        return sum(known) / len(known) if known else None

    def total(self, cells: Sequence[Cell]) -> float | None:
        """Return the seconds that cells take one after the other; None if nothing was measured yet."""
        each = [self.of(cell.stage) for cell in cells]
        return None if None in each else sum(second for second in each if second is not None)


def run(work: Mapping[str, Task], workers: Workers, console: Console) -> dict[str, State]:
    """Run all cells that are not done; a failure affects only the cells that need the failed one.

    Args:
        work: Tasks by name, each after those that it needs.
        workers: Resources to run them on.
        console: Console for the progress.

    Returns:
        Final state of each cell.

    Raises:
        ValueError: If a directory belongs to another version of the study; nothing is run then.
    """
    found = {name: state(task) for name, task in work.items()}
    check_versions(found, work, any(task.redo for task in work.values()))
    ended = {name: place for name, place in found.items() if place.name == "done"}
    waiting = [name for name in work if name not in ended]
    running: dict[Future[State], str] = {}
    with _Report(work, ended, workers.slots, console) as report:
        while waiting or running:
            for name in list(waiting):
                if cause := _failed_need(work[name], ended):
                    ended[name] = report.end(name, State("missing", cause))
                elif all(need in ended for need in work[name].cell.needs):
                    running[workers.submit(work[name])] = name
                else:
                    continue
                waiting.remove(name)
            for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                name = running.pop(future)
                ended[name] = report.end(name, future.result())
    return ended


class LocalWorkers:
    """Processes on this machine.

    Args:
        jobs: Number of cells that run at a time.
    """

    def __init__(self, jobs: int) -> None:
        if jobs < 1:
            raise ValueError(f"jobs is {jobs}: at least 1 cell runs at a time")
        self.slots = jobs
        self._pool = ThreadPoolExecutor(jobs)
        self._stop = threading.Event()

    def submit(self, task: Task) -> Future[State]:
        """Run a cell as soon as there is room."""
        return self._pool.submit(run_cell, task, self._stop.is_set)

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)


class _Report:
    """A line for each cell that ends and, on a terminal, a progress bar with the time left."""

    def __init__(self, work: Mapping[str, Task], done: Mapping[str, State], slots: int, console: Console) -> None:
        self._work = work
        self._left = dict.fromkeys(name for name in work if name not in done)
        self._slots = slots
        self._console = console
        self._estimate = Estimate()
        for name, place in done.items():
            self._estimate.measured(work[name].cell.stage, place)
        columns = TextColumn("cells"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(self._time_left(), total=len(work), completed=len(done))

    def __enter__(self) -> _Report:
        self._bar.start()
        if done := len(self._work) - len(self._left):
            self._console.print(f"{done} of {len(self._work)} cells are already done", highlight=False)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def end(self, name: str, ended: State) -> State:
        """Report how a cell ended."""
        task = self._work[name]
        del self._left[name]
        if ended.name == "done":
            self._estimate.measured(task.cell.stage, ended)
            news = f"done     {name}  {times(ended)}"
        elif ended.name == "failed":
            news = f"failed   {name}: {ended.reason} (log: {task.cell.directory}/log.txt)"
        elif ended.name == "stopped":
            news = f"stopped  {name}: {ended.reason}; the next run continues from there"
        else:
            news = f"not run  {name}: {ended.reason}"
        place = f"[{len(self._work) - len(self._left)}/{len(self._work)}]"
        line = "  ".join(filter(None, (place, news, self._time_left())))
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._bar.update(self._task, advance=1, description=self._time_left())
        return ended

    def _time_left(self) -> str:
        seconds = self._estimate.total([self._work[name].cell for name in self._left])
        return f"about {duration(seconds / self._slots)} left" if seconds else ""


def times(found: State) -> str:
    """Return the measured durations of a cell, in words."""
    return ", ".join(f"{command} {duration(seconds)}" for command, seconds in found.seconds.items())
