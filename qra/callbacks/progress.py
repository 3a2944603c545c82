"""Progress: bars on a terminal, one line an epoch in a log."""

from __future__ import annotations

import time
from types import TracebackType

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor


def progress_display() -> ProgressBar:
    """Lightning's rich progress bar on a terminal, :class:`EpochLines` elsewhere."""
    return RichProgressBar() if Console().is_terminal else EpochLines()


class EpochLines(ProgressBar):
    """Print one line at the end of each training epoch: progress, metrics, time spent and left."""

    def disable(self) -> None:
        self.is_enabled = False

    def enable(self) -> None:
        self.is_enabled = True

    def __init__(self) -> None:
        super().__init__()
        self.is_enabled = True

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
        left = f"  about {(total - done) * seconds / 60:.0f} min left" if done < total else ""
        print(f"epoch {done}/{total}  {metrics}  {seconds:.0f} s{left}", flush=True)


class EvaluationProgress:
    """A progress bar over attacked batches with the accuracy so far; silent unless ``shown``."""

    def __init__(self, shown: bool) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._bar = Progress(*columns, TextColumn("{task.fields[accuracy]}"), disable=not shown)
        self._right = 0
        self._seen = 0

    def __enter__(self) -> EvaluationProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start(self, attack: str, batches: int) -> None:
        """Begin a bar for ``attack`` over a number of batches."""
        self._task = self._bar.add_task(attack, total=batches, accuracy="")
        self._right = self._seen = 0

    def advance(self, right: Tensor) -> None:
        """Count a batch as done, given the correctness of its examples, (N,)."""
        self._right += int(right.sum())
        self._seen += len(right)
        self._bar.update(self._task, advance=1, accuracy=f"{self._right / self._seen:.1%} right")
