"""Lightning's weight averaging, which swaps the weights of a network for validation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging

from qra.running import callbacks_of


def check(trainer: Trainer) -> None:
    """Refuse to average weights when training is over, which no validation would score and no checkpoint hold.

    Raises:
        ValueError: With what averages them in time.
    """
    if callbacks_of(trainer, StochasticWeightAveraging):
        raise ValueError(
            "StochasticWeightAveraging makes its average when the last checkpoint is written, so that nothing would "
            "hold it: take --trainer.callbacks+ callback/weight-averaging"
        )


def begin(trainer: Trainer, module: LightningModule) -> None:
    """Let an average that was not updated yet be the present weights, instead of those the module was made with."""
    for _, average in _averages(trainer):
        if average.n_averaged == 0:
            average.module.load_state_dict(module.state_dict())


def store(trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Put the averaged weights, which validation scored, into a checkpoint of weights alone."""
    for callback, _ in _averages(trainer):
        callback.on_save_checkpoint(trainer, module, checkpoint)
        for name in ("current_model_state", "averaging_state"):  # which only a resumption needs
            checkpoint.pop(name, None)


def _averages(trainer: Trainer) -> Iterator[tuple[WeightAveraging, Any]]:
    for callback in callbacks_of(trainer, WeightAveraging):
        if callback._average_model is not None:
            yield callback, callback._average_model
