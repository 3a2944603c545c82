"""Logging of a run's hyperparameters, accuracies and figures to any of Lightning's loggers."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from PIL import Image

from qra.attacks import PGD
from qra.callbacks.base import Order, PipelineCallback
from qra.callbacks.hparams import hparams_summaries
from qra.callbacks.hyperparameters import Word, hyperparameters
from qra.callbacks.measurement import outcomes_of
from qra.data import data_of
from qra.evaluation.figures import adversarial_grid, robustness_curve, write_png
from qra.losses import prediction
from qra.modules import ImageClassifier
from qra.precision import float32
from qra.running import is_rehearsal

SHOWN = 8
"""Number of images in the grid."""


def log_figure(trainer: Trainer, name: str, figure: Figure, step: int) -> None:
    """Log a figure to every logger in the logger's own way; one that has none gets a PNG in its directory.

    Args:
        trainer: Trainer with the loggers.
        name: Name such as ``test/robustness``.
        figure: The figure.
        step: Number of training steps of the network that it shows.
    """
    logger: Any
    for logger in trainer.loggers:
        experiment: Any = logger.experiment
        if hasattr(experiment, "add_figure"):  # TensorBoard
            experiment.add_figure(name, figure, step)
        elif hasattr(logger, "log_image"):  # Weights & Biases
            logger.log_image(key=name, images=[_pixels(figure)], step=step)
        elif hasattr(experiment, "log_figure") and hasattr(logger, "run_id"):  # MLflow
            experiment.log_figure(logger.run_id, figure, f"{name}-{step}.png")
        elif directory := getattr(logger, "log_dir", None) or logger.save_dir:
            write_png(Path(directory, "figures", f"{name.replace('/', '-')}-{step}.png"), figure)


def _pixels(figure: Figure) -> Image.Image:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return Image.open(file)


class RunLog(PipelineCallback):
    """Log to each logger how a run is made and what it measured, at the number of training steps of its network.

    Hyperparameters are the training, attack, optimizer, scheme, data and, in a study, the coordinates of the cell;
    TensorBoard's HPARAMS show them beside the measured accuracies. Figures are the robustness curve and a grid of
    test images under PGD.

    Args:
        config: Config of the command.
    """

    order = Order.WRITE
    stages = ("fit", "test")

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            logger.log_hyperparams(self._hyperparameters(trainer))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        step = float(pl_module.trained_steps)
        pl_module.log("step", step, sync_dist=True)  # Lightning logs all metrics at it; it is the same on all ranks

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        self._log(trainer, pl_module, pl_module.trained_steps)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        self._log(trainer, pl_module, trainer.global_step)

    def _log(self, trainer: Trainer, pl_module: ImageClassifier, step: int) -> None:
        outcomes = outcomes_of(trainer)
        if not trainer.is_global_zero or not outcomes or is_rehearsal(trainer) or not trainer.loggers:
            return
        accuracies = {f"test/{name}_acc": outcome.accuracy for name, outcome in outcomes.items()}
        values = self._hyperparameters(trainer)
        for logger in trainer.loggers:
            if trainer.state.fn == "test":
                logger.log_hyperparams(values)
            if isinstance(logger, TensorBoardLogger):
                logger.log_metrics(accuracies, step)
                for summary in hparams_summaries(values, accuracies):
                    logger.experiment._get_file_writer().add_summary(summary, step)
        log_figure(trainer, "test/robustness", robustness_curve([each.measured for each in outcomes.values()]), step)
        log_figure(trainer, "test/adversarial", self._grid(trainer, pl_module), step)
        for logger in trainer.loggers:
            logger.save()

    def _hyperparameters(self, trainer: Trainer) -> dict[str, Word]:
        return hyperparameters(self.config, Path(trainer.default_root_dir))

    def _grid(self, trainer: Trainer, pl_module: ImageClassifier) -> Figure:
        """Draw test images, class-balanced, before and after PGD at 8/255."""
        data = data_of(trainer)
        x, y, indices = data.batch("test", data.choose("test", SHOWN))
        with float32(x.device), torch.no_grad():
            x_adv = PGD(steps=10)(pl_module.attack_network(refresh=False), x, y, index=indices)
            clean, adversarial = prediction(pl_module(x)), prediction(pl_module(x_adv))
        return adversarial_grid(x, x_adv, y, clean, adversarial, data.class_names)
