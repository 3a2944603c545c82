"""The network that a fit ends with."""

from __future__ import annotations

from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from qra import checkpoint
from qra.modules import ImageClassifier


def best_keeper(trainer: Trainer) -> ModelCheckpoint | None:
    """What keeps the best epoch in validation: that which is called so, or else the first with a monitor."""
    kept = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor is not None]
    return min(kept, key=lambda keeper: keeper.filename != "best", default=None)


def best_checkpoint(trainer: Trainer) -> str | None:
    """The path of the best epoch in validation; None if none was kept."""
    keeper = best_keeper(trainer)
    return (keeper.best_model_path or None) if keeper is not None else None


def restore_best(trainer: Trainer, module: ImageClassifier) -> None:
    """Give a network in training the weights of the best epoch in validation; those of the last if none was kept."""
    path = best_checkpoint(trainer)
    if module.weights is None and path is not None:
        checkpoint.load_weights(module.network, path, module.scheme)
        module.weights = path
