"""The network that a fit ends with."""

from __future__ import annotations

from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from qra import checkpoint
from qra.modules import ImageClassifier


def best_checkpoint(trainer: Trainer) -> str | None:
    """The path of the best epoch in validation; None if none was kept."""
    for keeper in trainer.checkpoint_callbacks:
        if isinstance(keeper, ModelCheckpoint) and keeper.monitor is not None and keeper.best_model_path:
            return keeper.best_model_path
    return None


def restore_best(trainer: Trainer, module: ImageClassifier) -> None:
    """Give a network in training the weights of the best epoch in validation; those of the last if none was kept."""
    path = best_checkpoint(trainer)
    if module.weights is None and path is not None:
        checkpoint.load_weights(module.network, path, module.scheme)
        module.weights = path
