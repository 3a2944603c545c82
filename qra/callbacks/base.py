"""What the command line and the files of a run ask of a callback."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Any, ClassVar

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from torch import Tensor, nn

from qra.callbacks.workload import Workload
from qra.data import ImageDataModule, data_of
from qra.modules import ImageClassifier


class Order(IntEnum):
    """Places of callbacks in a run; those of one place keep the order they are given in."""

    PREPARE = 0
    """Callbacks that only watch or prepare, and all that know of no places."""
    CHANGE = 10
    """Those that make another network of it, such as quantization after training."""
    MEASURE = 20
    MEASURE_LONG = 30
    """Measurements of hours, after the short ones."""
    WRITE = 40
    """Those that write down what was measured."""
    SAVE = 50
    """Lightning's checkpoints."""


class PipelineCallback(Callback):
    """A callback that knows its place in a run, refuses what cannot work and says what it found.

    What computes at the end of ``fit`` belongs in ``on_train_end``: later hooks find the network off its device. There
    the network may have the weights of the last epoch, of the best one or a quantized network's; whoever changes them
    says so by ``ImageClassifier.weights``.
    """

    order: ClassVar[Order] = Order.PREPARE
    """Its place among the callbacks of a run."""

    stages: ClassVar[tuple[str, ...]] = ("fit", "validate", "test", "predict")
    """The commands that it takes part in."""

    makes_another_network: ClassVar[bool] = False
    """Whether ``test`` measures another network than that of the checkpoint, so that it gets a directory of its own."""

    def check(self, module: ImageClassifier, data: ImageDataModule, world_size: int) -> None:
        """Refuse, before anything is written, what this callback could not do later. May be called several times.

        Args:
            module: What is to be trained or tested, on the CPU.
            data: Set up.
            world_size: Number of processes.

        Raises:
            ValueError: With what is wrong and what to do.
        """

    def check_size(self, images: int) -> None:
        """Refuse fewer test images than this callback is to look at, as soon as they can be counted.

        Args:
            images: How many there are.

        Raises:
            ValueError: If there are too few.
        """

    def workload(self, network: nn.Module, data: ImageDataModule) -> Iterable[Workload]:
        """What it runs through the network, for dry runs.

        Args:
            network: What is trained or tested.
            data: Set up.
        """
        return ()

    def preview(self, network: nn.Module, images: Tensor) -> None:
        """Make the other network that it tests of a copy, in place, for dry runs.

        Args:
            network: A copy of the network, in eval mode.
            images: A few of the data, in [0, 1], (N, C, H, W), for what takes hundreds in a test.
        """

    def record(self) -> dict[str, Any]:
        """What ``result.json`` is to say of it, ready for JSON: keys of its own.

        A run has one callback of a class that writes this.
        """
        return {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert isinstance(pl_module, ImageClassifier)
        if stage in self.stages:
            self.check(pl_module, data_of(trainer), trainer.world_size)


def order(callback: Callback) -> Order:
    """The place of any callback in a run."""
    if isinstance(callback, PipelineCallback):
        return callback.order
    return Order.SAVE if isinstance(callback, Checkpoint) else Order.PREPARE
