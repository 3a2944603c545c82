"""The interface of callbacks for the command line and for the files of a run."""

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
from qra.running import callbacks_of


class Order(IntEnum):
    """Position of callbacks in a run; those with the same position keep the order in which they are given."""

    PREPARE = 0
    """Callbacks that only watch or prepare, and all that have no position of their own."""
    CHANGE = 10
    """Callbacks that change the network, such as quantization after training."""
    MEASURE = 20
    MEASURE_LONG = 30
    """Measurements that take hours, after the short ones."""
    WRITE = 40
    """Callbacks that write the results."""
    SAVE = 50
    """Lightning's checkpoint callbacks."""


class PipelineCallback(Callback):
    """A callback with a position in a run, which rejects unusable settings early and reports its results.

    Computations at the end of ``fit`` belong in ``on_train_end``: in later hooks the network is no longer on its
    device. At that point the network may have the weights of the last epoch, of the best one or of a quantized
    network; a callback that changes them sets ``ImageClassifier.weights``.
    """

    order: ClassVar[Order] = Order.PREPARE
    """Position among the callbacks of a run."""

    stages: ClassVar[tuple[str, ...]] = ("fit", "validate", "test", "predict")
    """Commands in which the callback is active."""

    makes_another_network: ClassVar[bool] = False
    """Whether ``test`` measures a different network from the checkpoint's, and so gets a directory of its own."""

    def check(self, module: ImageClassifier, data: ImageDataModule, world_size: int) -> None:
        """Reject, before anything is written, what this callback could not do later. May be called several times.

        Args:
            module: Module to be trained or tested, on the CPU.
            data: Data module that has been set up.
            world_size: Number of processes.

        Raises:
            ValueError: If something is wrong; the message says what, and what to do.
        """

    def check_size(self, images: int) -> None:
        """Check, as soon as the test images can be counted, that there are enough for this callback.

        Args:
            images: Number of test images.

        Raises:
            ValueError: If there are too few.
        """

    def workload(self, network: nn.Module, data: ImageDataModule) -> Iterable[Workload]:
        """Return what this callback runs through the network, for dry runs.

        Args:
            network: Network to be trained or tested.
            data: Data module that has been set up.
        """
        return ()

    def preview(self, network: nn.Module, images: Tensor) -> None:
        """Change a copy of the network, in place, into the network that this callback tests; for dry runs.

        Args:
            network: Copy of the network, in eval mode.
            images: A few of the images, in [0, 1], (N, C, H, W), in place of the hundreds that a test uses.
        """

    def record(self) -> dict[str, Any]:
        """Return this callback's entries in ``result.json``, ready for JSON; their keys must be unique.

        A run may have only one callback of each class that overrides this.
        """
        return {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert isinstance(pl_module, ImageClassifier)
        if stage in self.stages:
            self.check(pl_module, data_of(trainer), trainer.world_size)


def tests_another_network(trainer: Trainer) -> bool:
    """Return whether a callback makes ``test`` measure a different network from the checkpoint's."""
    return any(callback.makes_another_network for callback in callbacks_of(trainer, PipelineCallback))


def order(callback: Callback) -> Order:
    """Return the position of any callback in a run."""
    if isinstance(callback, PipelineCallback):
        return callback.order
    return Order.SAVE if isinstance(callback, Checkpoint) else Order.PREPARE
