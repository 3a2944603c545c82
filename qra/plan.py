"""Plans: the work and the time of a training or test, estimated without running it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Trainer
from rich.table import Table

from qra.attacks import PassCount
from qra.callbacks import PipelineCallback
from qra.callbacks.measurement import Measurement
from qra.callbacks.workload import Workload, passes_of
from qra.data import ImageDataModule
from qra.durations import UntoldError, duration
from qra.modules import ImageClassifier
from qra.probe import Probe, Speed
from qra.quant import calibrate
from qra.running import callbacks_of
from qra.terminal import print_table

_FEW = 8
"""Number of images that a network is calibrated on for a trial."""


class Line(NamedTuple):
    """One part of a plan."""

    what: str
    images: int
    passes: PassCount
    """Passes of all images together."""
    seconds: float


@dataclass(frozen=True)
class Plan:
    """The work that a command would do.

    Args:
        lines: Parts of the work, in order.
        notes: Sentences that say what the total does not include.
        device: Device on which it would run.
    """

    lines: Sequence[Line]
    notes: Sequence[str]
    device: str

    @property
    def seconds(self) -> float:
        """Time of all parts together, in seconds."""
        return sum(line.seconds for line in self.lines)

    @property
    def images(self) -> int:
        """Number of images in all parts; an image counts once per epoch of a training and once per attack."""
        return sum(line.images for line in self.lines)

    @property
    def passes(self) -> PassCount:
        """Passes of all parts together."""
        return reduce(PassCount.plus, (line.passes for line in self.lines), PassCount(0))

    def print(self, command: str, directory: Path, probed: float) -> None:
        """Print the plan.

        Args:
            command: ``fit`` or ``test``.
            directory: Directory that the command would write to.
            probed: Duration of the timing trials, in seconds.
        """
        table = Table("what", show_footer=True)
        for name in ("images", "forward passes", "backward passes", "time"):
            table.add_column(name, justify="right")
        for line in self.lines:
            table.add_row(line.what, f"{line.images:,}", *_numbers(line.passes), duration(line.seconds))
        footers = ("together", "", *_numbers(self.passes), duration(self.seconds))
        for column, footer in zip(table.columns, footers, strict=True):
            column.footer = footer
        print_table(table)
        print(
            f"qra {command} would take about {duration(self.seconds)} on {self.device}: passes were timed for "
            f"{probed:.1f} s; broken images take less, and reading images is not counted"
        )
        print(*self.notes, f"it would write to {directory}; nothing was written", sep="\n")


def _numbers(passes: PassCount) -> tuple[str, str]:
    return f"{passes.forward:,.0f}", f"{passes.backward:,.0f}"


def make_plan(
    command: str,
    trainer: Trainer,
    module: ImageClassifier,
    data: ImageDataModule,
    checkpoint: Mapping[str, Any],
    probe: Probe,
) -> Plan:
    """Count the work of a command, and estimate its duration from short timing trials.

    Args:
        command: ``fit`` or ``test``.
        trainer: Trainer that has not started.
        module: Module that would be trained or tested; not changed.
        data: Data module that has been set up.
        checkpoint: Content of the checkpoint that the command would resume or test; empty if there is none.
        probe: Timer of passes and training steps.
    """
    device, shares = trainer.strategy.root_device, trainer.world_size
    callbacks = [each for each in callbacks_of(trainer, PipelineCallback) if command in each.stages]
    trained = _copied(module, data, checkpoint)
    network = copy.deepcopy(trained.network).eval().to(device)
    speed = probe.speed(network, data, device)

    lines = []
    if command == "test":
        images = _limited(data.size("test"), trainer.limit_test_batches, data.batch_size)
        lines.append(_line(Workload("clean images", images, PassCount(1)), speed, shares))
    elif length := _length(trainer, data, checkpoint):
        step, images = probe.step(trained, data, trainer), length.steps * data.batch_size
        lines.append(Line(length.what, images, step.passes.times(images), images * step.seconds / shares))
        lines.append(_line(length.validation(trainer, module, data), speed, shares))
    if any(each.makes_another_network for each in callbacks):
        few = data.batch("test", torch.arange(min(_FEW, data.size("test"))), device).x
        for each in callbacks:
            each.preview(network, few)
        speed = probe.speed(network, data, device)
    lines += [_line(work, speed, shares) for each in callbacks for work in each.workload(network, data)]
    where = f"{shares} x {device.type}" if shares > 1 else f"{device.type} ({_threads()})"
    return Plan(lines, list(_notes(callbacks, module)), where)


def _line(work: Workload, speed: Speed, shares: int) -> Line:
    seconds = work.images * speed.of(work.passes) / shares
    return Line(work.what, work.images, work.passes.times(work.images), seconds)


def _threads() -> str:
    count = torch.get_num_threads()
    return f"{count} thread{'s' if count > 1 else ''}"


def _copied(module: ImageClassifier, data: ImageDataModule, checkpoint: Mapping[str, Any]) -> ImageClassifier:
    """Return a copy of a module that can be run: with the weights of its checkpoint, or briefly calibrated."""
    found = copy.deepcopy(module)
    if state := checkpoint.get("state_dict"):
        found.load_state_dict(state, strict=False)
    elif found.scheme is not None:
        calibrate(found.network, [data.batch("train", data.train_indices[:_FEW], found.device).x])
    if found.channels_last:
        found.network.to(memory_format=torch.channels_last)
    return found


class Length(NamedTuple):
    """Remaining length of a training."""

    steps: int
    epochs: int
    asked: int

    @property
    def what(self) -> str:
        """Description for people."""
        whole = "" if self.epochs == self.asked else f" of {self.asked}"
        return f"training, {self.epochs}{whole} epochs"

    def validation(self, trainer: Trainer, module: ImageClassifier, data: ImageDataModule) -> Workload:
        """Return the workload of all remaining validations."""
        count = self.epochs // (trainer.check_val_every_n_epoch or 1)
        images = _limited(len(data.val_indices), trainer.limit_val_batches, data.batch_size)
        passes, under = PassCount(1), ""
        if (attack := module.val_attack) is not None:
            passes, under = passes_of(attack, data.num_classes).plus(PassCount(2)), f", {attack.title}"
        return Workload(f"{count} validations{under}", count * images, passes)


def _length(trainer: Trainer, data: ImageDataModule, checkpoint: Mapping[str, Any]) -> Length | None:
    """Return the remaining length of a training; None if nothing remains."""
    batches = _limited(len(data.train_dataloader()), trainer.limit_train_batches)
    asked = -1 if trainer.max_epochs is None else trainer.max_epochs
    steps_done = checkpoint.get("global_step", 0)
    left = [(asked - _epochs_done(checkpoint)) * batches] if asked >= 0 else []
    left += [trainer.max_steps - steps_done] if trainer.max_steps >= 0 else []
    if not left:
        raise UntoldError("trainer.max_epochs is -1: the time of a training without an end cannot be estimated")
    steps = min(left)
    return Length(steps, math.ceil(steps / batches), asked) if steps > 0 and batches else None


def _epochs_done(checkpoint: Mapping[str, Any]) -> int:
    progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_progress", {})
    return int(progress.get("current", {}).get("processed", 0))


def _limited(count: int, limit: float | None, each: int = 1) -> int:
    """Return how many of some batches, or of images in batches of ``each``, remain under a limit of Lightning's."""
    if limit is None:
        return count
    return int(count * limit) if isinstance(limit, float) else min(count, limit * each)


def _notes(callbacks: Sequence[PipelineCallback], module: ImageClassifier) -> Iterator[str]:
    for callback in callbacks:
        if isinstance(callback, Measurement) and type(callback).workload is PipelineCallback.workload:
            yield f"not counted: {type(callback).__name__}, which does not say what it runs (by workload)"
    if module.compile_network:
        yield "not counted: compiling, and what it saves"
