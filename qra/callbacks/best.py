"""The best epoch of a fit: its network, and the last lines that a training prints about it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from qra import checkpoint
from qra.modules import ImageClassifier
from qra.running import callbacks_of


def best_keeper(trainer: Trainer) -> ModelCheckpoint | None:
    """Return the callback that keeps the best validated epoch: that named ``best``, else the first with a monitor."""
    kept = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor is not None]
    return min(kept, key=lambda keeper: keeper.filename != "best", default=None)


def best_checkpoint(trainer: Trainer) -> str | None:
    """Return the path of the checkpoint of the best validated epoch, or None if none was kept."""
    keeper = best_keeper(trainer)
    return (keeper.best_model_path or None) if keeper is not None else None


def restore_best(trainer: Trainer, module: ImageClassifier) -> None:
    """Load the weights of the best validated epoch; if none was kept, those of the last epoch remain."""
    path = best_checkpoint(trainer)
    if module.weights is None and path is not None:
        checkpoint.load_weights(module.network, path, module.scheme)
        module.weights = path


class BestFigures(Callback):
    """Record the validation accuracies of each epoch, so that those of the best can be printed at the end."""

    def __init__(self) -> None:
        self.accuracies: dict[int, dict[str, float]] = {}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = trainer.callback_metrics.items()
        found = {name: float(value) for name, value in metrics if name.startswith("val/") and name.endswith("_acc")}
        self.accuracies[trainer.current_epoch] = found

    def state_dict(self) -> dict[str, Any]:
        return {"accuracies": self.accuracies}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.accuracies = dict(state_dict["accuracies"])

    def best(self, metric: str, score: float) -> tuple[int, dict[str, float]] | None:
        """Return the first epoch whose ``metric`` equals ``score``, with all its accuracies; None if there is none."""
        same = (item for item in self.accuracies.items() if abs(item[1].get(metric, -1.0) - score) < 1e-6)
        return next(same, None)


def ending(trainer: Trainer, directory: Path) -> list[str]:
    """Return the last lines of a fit.

    Args:
        trainer: The trainer, after training.
        directory: Directory of the run.
    """
    module = trainer.lightning_module
    assert isinstance(module, ImageClassifier)
    path = module.weights or best_checkpoint(trainer)
    if path is None:
        return [f"trained {trainer.current_epoch} epochs; no best.ckpt was kept", f"all files are in {directory}"]
    name = Path(directory, Path(path).name)
    return [_best(trainer), f"all files are in {directory}", f"next: qra test --ckpt_path {shlex.quote(str(name))}"]


def _best(trainer: Trainer) -> str:
    keeper = best_keeper(trainer)
    if keeper is None or keeper.monitor is None or keeper.best_model_score is None:
        return f"trained {trainer.current_epoch} epochs without validation: best.ckpt holds the last one"
    score = float(keeper.best_model_score)
    figures = callbacks_of(trainer, BestFigures)
    found = figures[0].best(keeper.monitor, score) if figures else None
    if found is None:
        return f"best validation epoch: {keeper.monitor} {score:.1%}"
    epoch, accuracies = found
    figures_of_it = ", ".join(f"{name} {value:.1%}" for name, value in accuracies.items())
    asked = f" of {trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
    return f"best validation epoch: {epoch + 1}{asked}, {figures_of_it}"
