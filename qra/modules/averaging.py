"""Support for Lightning's weight averaging, which swaps in the averaged weights during validation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging

from qra.running import callbacks_of


def check(trainer: Trainer) -> None:
    """Reject ``StochasticWeightAveraging``, whose average comes too late to be validated or saved in a checkpoint.

    Raises:
        ValueError: If the trainer has that callback; the message names the one to use instead.
    """
    if callbacks_of(trainer, StochasticWeightAveraging):
        raise ValueError(
            "StochasticWeightAveraging computes its average after the last checkpoint is written, so no file would "
            "hold it: use --trainer.callbacks+ callback/weight-averaging"
        )


def begin(trainer: Trainer, module: LightningModule) -> None:
    """Set an average that has not been updated yet to the current weights, instead of the initial ones."""
    for _, average in _averages(trainer):
        if average.n_averaged == 0:
            average.module.load_state_dict(module.state_dict())


def store(trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Save the averaged weights, which are those that were validated, in a weights-only checkpoint."""
    for callback, _ in _averages(trainer):
        callback.on_save_checkpoint(trainer, module, checkpoint)
        for name in ("current_model_state", "averaging_state"):  # needed only to resume
            checkpoint.pop(name, None)


def _averages(trainer: Trainer) -> Iterator[tuple[WeightAveraging, Any]]:
    for callback in callbacks_of(trainer, WeightAveraging):
        if callback._average_model is not None:
            yield callback, callback._average_model
