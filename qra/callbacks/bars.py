"""Progress of a training: a bar on a terminal, one line per epoch in a log."""

from __future__ import annotations

import time

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from rich.console import Console

from qra.durations import duration
from qra.running import LOSS_STEP, is_logged


def progress_display() -> ProgressBar:
    """Return a progress bar for terminals, or one that prints lines elsewhere."""
    return LossBars() if Console().is_terminal else EpochLines()


class LossBars(RichProgressBar):
    """Lightning's progress bar with the training loss, fetched from the device only as often as it is logged."""

    _loss: str | None = None

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics = super().get_metrics(trainer, pl_module)
        if trainer.training and is_logged(trainer, trainer.global_step) and LOSS_STEP in trainer.logged_metrics:
            self._loss = f"{float(trainer.logged_metrics[LOSS_STEP]):.3f}"
        return metrics if self._loss is None else {**metrics, LOSS_STEP: self._loss}


class EpochLines(ProgressBar):
    """Progress bar that prints one line per training epoch: progress, metrics, duration and time left."""

    def __init__(self) -> None:
        super().__init__()
        self.is_enabled = True

    def disable(self) -> None:
        self.is_enabled = False

    def enable(self) -> None:
        self.is_enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.monotonic()  # of an epoch that is gone on with, Lightning tells no start

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.is_enabled:
            return
        seconds = time.monotonic() - self._started
        done, total = trainer.current_epoch + 1, trainer.max_epochs or 0
        metrics = "  ".join(
            f"{name} {float(value):.4f}"
            for name, value in sorted(trainer.callback_metrics.items())
            if name.startswith(("train/", "val/")) and not name.endswith("_step")
        )
        left = f"  about {duration((total - done) * seconds)} left" if done < total else ""
        print(f"epoch {done}/{total}  {metrics}  {seconds:.0f} s{left}", flush=True)
