"""Parsing and planning the commands of a study before any of them runs."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from qra.callbacks import PipelineCallback
from qra.cli.linking import link_to_data
from qra.cli.pipeline import QraCLI
from qra.cli.silence import quiet
from qra.errors import is_expected
from qra.front.arguments import prepared
from qra.front.run_config import check_trainer
from qra.front.usage import explained
from qra.modules import RobustTransfer
from qra.plan import Plan, make_plan
from qra.probe import Probe
from qra.quant import freeze
from qra.runs.command import RunningCommand


class _ParsedOnly(QraCLI):
    """The command line up to its parser."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = Namespace(subcommand=None)  # type: ignore[no-untyped-call]

    def _set_seed(self) -> None:
        pass

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def after_instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


@cache
def _parser() -> LightningArgumentParser:
    quiet()
    return _ParsedOnly([], RunningCommand([])).parser


def parse_command(words: Sequence[str], whole: bool = False) -> None:
    """Parse a command without running it.

    Args:
        words: Arguments that follow ``qra`` on the command line.
        whole: Whether to also make its objects, which reject values out of their range.

    Raises:
        ValueError: If it cannot be parsed, or an object cannot be made; the message says what is wrong.
    """
    arguments = prepared(words)
    try:
        config = _parser().parse_args(arguments)
        check_trainer(config[words[0]], words[0])
        if whole:
            made = _parser().instantiate_classes(config)[words[0]]
            _check_sizes(made, str(config[words[0]].data))
    except Exception as reason:
        if not is_expected(reason):
            raise
        raise explained(reason, arguments) from None


_test_images: dict[str, int | None] = {}
"""Number of test images, by description of the data; None where they cannot be read."""


def _check_sizes(made: Namespace, data: str) -> None:
    """Reject evaluations of more test images than there are."""
    if data not in _test_images:
        try:
            made.data.prepare_data()
            made.data.setup("test")
            _test_images[data] = made.data.size("test")
        except Exception as reason:
            if not is_expected(reason):
                raise
            _test_images[data] = None  # the command will report it where it runs, which may be another machine
    images = _test_images[data]
    for each in (made.evaluation, *(made.trainer.callbacks or [])):
        if images is not None and isinstance(each, PipelineCallback):
            each.check_size(images)


class _PlannedOnly(QraCLI):
    """A command of a study up to its plan, while the checkpoints that it starts or learns from may not exist yet."""

    def before_instantiate_classes(self) -> None:
        self.directory = Path(self.config[self.subcommand].run)

    def after_instantiate_classes(self) -> None:
        network, data = self.config[self.subcommand].model.init_args.get("network"), self.datamodule
        data.prepare_data()
        if isinstance(network, Namespace) and link_to_data(network, data.num_classes, data.image_shape[0]):
            self.instantiate_classes()
        data.setup(self.subcommand)
        if self.subcommand == "fit":
            self.model.check_data(data)
        self.datamodule = data
        if isinstance(self.model, RobustTransfer):
            self.model.learn_from(freeze(copy.deepcopy(self.model.network)))

    def _run_subcommand(self, subcommand: str) -> None:
        pass


_probe = cache(Probe)


def plan_command(words: Sequence[str], threads: int) -> Plan:
    """Plan a command of a study without running it.

    Args:
        words: Arguments that follow ``qra`` on the command line.
        threads: Number of threads that it will run on.

    Raises:
        ValueError: If its work or duration cannot be predicted.
    """
    quiet()
    with _as_in_a_cell(threads):
        planned = _PlannedOnly(prepared(words), RunningCommand(list(words)))
        return make_plan(words[0], planned.trainer, planned.model, planned.datamodule, {}, _probe())


@contextmanager
def _as_in_a_cell(threads: int) -> Iterator[None]:
    """Compute on a number of threads, and without the lines on devices that each trainer logs."""
    log, usual = logging.getLogger("lightning.pytorch.utilities.rank_zero"), torch.get_num_threads()
    level = log.level
    log.setLevel(logging.WARNING)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        log.setLevel(level)
        torch.set_num_threads(usual)
