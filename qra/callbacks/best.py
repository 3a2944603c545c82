"""The best network of a fit."""

from __future__ import annotations

from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from qra import checkpoint
from qra.modules import ImageClassifier


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
