"""``qra study``: list, run and monitor the cells of a study."""

from __future__ import annotations

import argparse
import dataclasses
import re
import shlex
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console

from qra.durations import duration
from qra.front.tool_arguments import study as arguments_of_study
from qra.runs.signals import Stoppable
from qra.study.check import Parse, check_checkpoints, check_commands
from qra.study.definition import load_study
from qra.study.directory import State, Task
from qra.study.forecast import Forecast, Forecaster, Foresee
from qra.study.grid import Cell, expand, select
from qra.study.ray import RayWorkers
from qra.study.runner import Estimate, LocalWorkers, check_versions, run, states, tasks, times
from qra.study.stages import Study

_GRACE = 20.0
"""Seconds that the cells get to end before the process is ended."""


def main(
    arguments: Sequence[str], parse: Parse, foresee: Foresee, decidable: Callable[[Sequence[Cell]], list[str]]
) -> None:
    """Run one of the three commands; the exit code is 1 if any cell is not done after ``run``.

    Args:
        arguments: Arguments that follow ``qra study``.
        parse: Function that parses a command of a cell without running it.
        foresee: Function that returns the plan of a command of a cell.
        decidable: Function that returns what cells can say about each claim, one line each.
    """
    options = arguments_of_study().parse_args(list(arguments))
    study = load_study(options.study, options.set)
    if options.seeds:
        study = dataclasses.replace(study, seed=options.seeds)
    if options.command == "run":
        _run(study, options, parse, foresee)
        return
    work = _chosen(study, options)
    if options.command == "status":
        _print_status(work, states(work))
    elif options.claims:
        print(*decidable([task.cell for task in work.values()]), sep="\n")
    else:
        for task in work.values():
            print(f"# {task.cell.name}")
            for command in task.cell.commands:
                print(shlex.join(["qra", *command]))


def _chosen(study: Study, options: argparse.Namespace, redo: bool = False) -> dict[str, Task]:
    """Return the tasks of the cells that the options choose, by name."""
    cells = expand(study, options.runs)
    names = {cell.name for cell in select(cells, options.only, _shard(options.shard))}
    return {name: task for name, task in tasks(study, cells, redo).items() if name in names}


def _shard(text: str) -> tuple[int, int]:
    number, _, shards = text.partition("/")
    if not re.fullmatch(r"\d{1,9}/0*[1-9]\d{0,8}", text, re.ASCII):
        raise ValueError(f"--shard {text}: write I/N for shard I, from 0, of N, such as 0/4")
    return int(number), int(shards)


def _run(study: Study, options: argparse.Namespace, parse: Parse, foresee: Foresee) -> None:
    if options.gpus is not None:
        study = dataclasses.replace(study, gpus=options.gpus)
    work = _chosen(study, options, options.redo)
    found = states(work)
    check_versions(found, work, options.redo)
    left = [task.cell for name, task in work.items() if found[name].name != "done"]
    check_checkpoints(study, left)
    check_commands(study, left, parse)
    if options.dry_run:
        _print_plan(left, len(work), Forecaster(foresee, study.threads))
        return
    console = Console()
    with Stoppable(_stopped, grace=_GRACE), _workers(study, options) as workers:
        ended = run(work, workers, console)
    counts = Counter(place.name for place in ended.values())
    console.print(_summary(counts), highlight=False)
    if counts["done"] < len(work):
        raise SystemExit(1)


def _print_plan(left: Sequence[Cell], total: int, forecaster: Forecaster) -> None:
    """Print what a run would do: each of the cells left of all, the directory it writes to, and its time."""
    forecasts = [forecaster.of(cell) for cell in left]
    whole = Forecast()
    for cell, forecast in zip(left, forecasts, strict=True):
        whole = whole.plus(forecast)
        steps = " and ".join(command[0] for command in cell.commands)
        known = f"{forecast.images:,} images, about {duration(forecast.seconds)}"
        print(f"{cell.name}: {steps}, {'time unknown' if forecast.unknown else known}, in {cell.directory}")
    for reason in whole.unknown:
        print(f"not counted: {reason}")
    commands = sum(len(cell.commands) for cell in left)
    print(f"{len(left)} of {total} cells, {commands} commands, all of which can be parsed; nothing was written")
    if left:
        passes = f"{whole.forward:,.0f} forward and {whole.backward:,.0f} backward passes of an image"
        print(f"{whole.images:,} images, counted once per epoch and attack; {passes}: one cell at a time")
        print(f"about {duration(whole.seconds)} on this machine, from passes timed now; broken images take less")


def _stopped(number: signal.Signals) -> str:
    return f"stopped by {number.name}; the same command goes on from here"


def _workers(study: Study, options: argparse.Namespace) -> LocalWorkers | RayWorkers:
    if options.ray is None:
        return LocalWorkers(options.jobs)
    return RayWorkers(options.ray, study.threads, study.gpus)


def _summary(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items())


def _print_status(work: Mapping[str, Task], found: Mapping[str, State]) -> None:
    console = Console()
    estimate = Estimate()
    width = max(map(len, work))
    for name, place in found.items():
        news = "  ".join(filter(None, (times(place), place.reason)))
        line = f"{place.name:8} {name:{width}}  {news}".rstrip()
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        if place.name == "done":
            estimate.measured(work[name].cell.stage, place)
    console.print(_summary(Counter(place.name for place in found.values())), markup=False, highlight=False)
    left = estimate.total([task.cell for name, task in work.items() if found[name].name != "done"])
    if left:
        news = f"about {duration(left)} left for one cell at a time, from the mean time of each stage's cells"
        console.print(news, highlight=False)
