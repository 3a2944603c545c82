"""What a trainer of Lightning's has without declaring it, with types."""

from __future__ import annotations

from typing import TypeVar

from lightning import Trainer
from lightning.pytorch.callbacks import Callback

Kind = TypeVar("Kind", bound=Callback)

LOSS_STEP = "train/loss_step"
"""Name of the loss of a training step in logs."""


def callbacks_of(trainer: Trainer, kind: type[Kind]) -> list[Kind]:
    """The callbacks of a class, in their order; of :class:`Callback`, all."""
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]


def is_rehearsal(trainer: Trainer) -> bool:
    """Whether ``fast_dev_run`` asks for a few batches, of which nothing is kept."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def epochs_done(trainer: Trainer) -> int:
    """Number of epochs that are trained, those before a resumption included."""
    return int(trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]


def batches_done(trainer: Trainer) -> int:
    """Number of batches of this epoch that are trained, those before a resumption included."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.current.processed)  # type: ignore[attr-defined]


def is_logged(trainer: Trainer, steps: int) -> bool:
    """Whether the step is logged that is the last one of so many."""
    period = int(trainer.log_every_n_steps)  # type: ignore[attr-defined]
    return period > 0 and steps > 0 and steps % period == 0
