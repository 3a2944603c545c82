from __future__ import annotations

import copy
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn

from qra.attacks import PGD, Attack
from qra.checks import check_in
from qra.evaluation.robustness import robust
from qra.modules import ImageClassifier
from qra.types import Batch


class CatastrophicOverfittingGuard(Callback):
    """Stop fast adversarial training when it collapses, and restore the last good weights.

    Training on single-step attacks can, within one epoch, lose all robustness to PGD while its own accuracy jumps
    (Wong et al. 2020, arXiv 2001.03994, section 5.4). At the end of each epoch this measures PGD accuracy on the first
    training batch of the epoch.

    Args:
        attack: Attack to measure robustness with, different from that of the training.
        drop: Drop of the accuracy from one epoch to the next that counts as a collapse, as a fraction.
    """

    def __init__(self, attack: Attack = PGD(steps=5, early_stop=True), drop: float = 0.2) -> None:
        check_in("drop", drop, "(0, 1)")
        self.attack = attack
        self.drop = drop
        self._accuracy = 0.0
        self._good: dict[str, torch.Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        if self._accuracy:  # training is resumed, from the weights that had this accuracy
            self._good = copy.deepcopy(pl_module.network.state_dict())

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 0:
            self._batch = batch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        frozen = pl_module.attack_network()
        correct = robust(frozen, self.attack, *self._batch).float().mean()
        accuracy = float(trainer.strategy.reduce(correct, reduce_op="mean"))
        pl_module.log("train/guard_acc", accuracy, sync_dist=True)
        if accuracy < self._accuracy - self.drop and self._good:
            pl_module.network.load_state_dict(self._good)
            trainer.should_stop = True
            rank_zero_warn(
                f"catastrophic overfitting in epoch {trainer.current_epoch + 1}: accuracy under PGD fell from "
                f"{self._accuracy:.1%} to {accuracy:.1%} on a training batch; the weights of the previous epoch are "
                "restored and training stops"
            )
            return
        self._accuracy = accuracy
        self._good = copy.deepcopy(pl_module.network.state_dict())

    def state_dict(self) -> dict[str, Any]:
        return {"accuracy": self._accuracy}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._accuracy = state_dict["accuracy"]
