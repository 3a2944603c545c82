"""Typed access to attributes of Lightning's trainer that it does not declare."""

from __future__ import annotations

from typing import TypeVar

from lightning import Trainer
from lightning.pytorch.callbacks import Callback

Kind = TypeVar("Kind", bound=Callback)

LOSS_STEP = "train/loss_step"
"""Name of the loss of a training step in logs."""


def callbacks_of(trainer: Trainer, kind: type[Kind]) -> list[Kind]:
    """Return the trainer's callbacks of a class, in order; for :class:`Callback`, all of them."""
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]


def shows_progress(trainer: Trainer) -> bool:
    """Return whether this process displays progress: it is rank 0, and there is a progress bar."""
    return trainer.is_global_zero and trainer.progress_bar_callback is not None


def is_rehearsal(trainer: Trainer) -> bool:
    """Return whether ``fast_dev_run`` is set, which runs a few batches and keeps no results."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def epochs_done(trainer: Trainer) -> int:
    """Return the number of epochs trained, including those before a resumption."""
    return int(trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]


def batches_done(trainer: Trainer) -> int:
    """Return the number of batches of the current epoch that were trained, including those before a resumption."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.current.processed)  # type: ignore[attr-defined]


def is_logged(trainer: Trainer, steps: int) -> bool:
    """Return whether step number ``steps``, counted from 1, is logged."""
    period = int(trainer.log_every_n_steps)  # type: ignore[attr-defined]
    return period > 0 and steps > 0 and steps % period == 0
