"""Plain warnings about what is going wrong in a training run."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from qra.checks import check_count, check_in
from qra.data import data_of
from qra.modules.optimizers import FiniteLoss

FAR = 0.5
"""Mean KL divergence from the teacher, in nats, from which on a student counts as far from it."""


class TrainingDiagnostics(Callback):
    """Watch a training run for known failures.

    After each epoch it warns if the attack does not raise the loss, if accuracy is at chance (at once if the run starts
    from trained weights), if a student stays far from its teacher, and if robust accuracy falls on validation data
    while it rises on training data (robust overfitting: Rice et al. 2020, arXiv 2002.11569). A loss that is not finite
    stops the run with a ``ValueError`` before it can reach the weights; the last checkpoint stays intact.

    Args:
        patience: Number of epochs after which to warn of accuracy at chance, a student that comes no closer to its
            teacher, or falling robust accuracy.
        fall: Drop of robust validation accuracy below its best that counts as overfitting, as a fraction.
    """

    def __init__(self, patience: int = 3, fall: float = 0.02) -> None:
        check_count("patience", patience)
        check_in("fall", fall, "(0, 1)")
        self.patience = patience
        self.fall = fall
        self._best = (0.0, 0.0, -1)  # robust accuracy in validation, that in training at the same time, epoch
        self._distances: list[float] = []  # KL divergence of the student from the teacher, per epoch
        self._losses: FiniteLoss | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._losses = FiniteLoss(trainer.optimizers[0])

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        assert self._losses is not None  # training has started
        self._refuse(self._losses.look(trainer.global_step, loss), trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._refuse(self._losses.first_bad() if self._losses else None, trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._refuse(self._losses.first_bad() if self._losses else None, trainer)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        classes = data_of(trainer).num_classes
        trained_start = getattr(pl_module, "init_from", None) is not None
        for message in self.findings(metrics, trainer.current_epoch, classes, trained_start):
            rank_zero_warn(f"epoch {trainer.current_epoch + 1}: {message}")

    @staticmethod
    def _refuse(bad: tuple[int, float] | None, trainer: Trainer) -> None:
        """Raise ValueError if a step with a non-finite loss was found."""
        if bad is not None:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            epoch = trainer.current_epoch + 1
            raise ValueError(
                f"the loss is {bad[1]} at step {bad[0]} (epoch {epoch}), where the learning rate is {rate:.4g}: "
                "lower it or warm it up; the last checkpoint is not affected"
            )

    def findings(self, metrics: dict[str, float], epoch: int, classes: int, trained_start: bool = False) -> list[str]:
        """Return the warnings after an epoch.

        Args:
            metrics: Logged values by name.
            epoch: Number of the epoch, from 0.
            classes: Number of classes.
            trained_start: Whether the run started from trained weights.
        """
        found = []
        clean_acc, chance = metrics.get("val/clean_acc", 1.0), 1 / classes
        if epoch == 0 and trained_start and clean_acc < 1.3 * chance:
            found.append(
                f"clean accuracy is {clean_acc:.1%} after the first epoch, and chance is {chance:.1%}, though init_from"
                " gave trained weights: the network no longer computes what it did (is it a checkpoint of this data, "
                "with this normalization? are there too few bits, or is the learning rate too high?)"
            )
        elif epoch + 1 >= self.patience and clean_acc < 1.3 * chance:
            found.append(
                f"clean accuracy is {clean_acc:.1%} after {epoch + 1} epochs, and chance is {chance:.1%}: the network "
                "is not learning (check learning rate, attack strength and initialization)"
            )
        elif _attack_fails(metrics):
            found.append(
                "the attack does not raise the loss on validation images: adversarial examples are not generated "
                "properly (eps or step size 0, or no gradient reaches the input)"
            )
        if "val/robust_acc" in metrics and "train/robust_acc" in metrics:
            found += self._overfitting(metrics["val/robust_acc"], metrics["train/robust_acc"], epoch)
        if "train/teacher_kl" in metrics:
            found += self._distance(metrics["train/teacher_kl"])
        return found

    def _distance(self, distance: float) -> list[str]:
        self._distances.append(distance)
        before = self._distances[-1 - self.patience :][0]
        if len(self._distances) <= self.patience or distance < FAR or distance < 0.9 * before:
            return []
        return [
            f"the student is far from its teacher and not getting closer: their predictions are {distance:.2f} nats "
            f"apart (mean KL divergence on training images), {before:.2f} nats {self.patience} epochs ago (check the "
            "learning rate; too few bits, too small a student, or one without trained weights: give them by init_from)"
        ]

    def _overfitting(self, validation: float, training: float, epoch: int) -> list[str]:
        best_validation, training_then, best_epoch = self._best
        if validation >= best_validation:
            self._best = validation, training, epoch
        elif (
            epoch - best_epoch >= self.patience
            and validation < best_validation - self.fall
            and training > training_then + self.fall
        ):
            return [
                f"robust overfitting: since epoch {best_epoch + 1}, robust accuracy fell from {best_validation:.1%} to "
                f"{validation:.1%} in validation and rose from {training_then:.1%} to {training:.1%} in training; "
                "best.ckpt holds the better network"
            ]
        return []

    def state_dict(self) -> dict[str, Any]:
        return {"best": list(self._best), "distances": self._distances}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        validation, training, epoch = state_dict["best"]
        self._best = validation, training, epoch
        self._distances = list(state_dict.get("distances", []))  # missing in checkpoints of earlier versions


def _attack_fails(metrics: dict[str, float]) -> bool:
    """Return whether the validation attack neither raises the loss nor lowers the accuracy."""
    if "val/robust_loss" not in metrics:
        return False
    no_loss_gained = metrics["val/robust_loss"] <= metrics["val/clean_loss"]
    return no_loss_gained and metrics["val/robust_acc"] >= metrics["val/clean_acc"]
