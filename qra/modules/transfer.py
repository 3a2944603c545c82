from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qra import losses
from qra.models import last_linear, with_features
from qra.modules.classifier import ImageClassifier
from qra.modules.transfer_losses import RSLAD, TransferLoss
from qra.quant import FrozenNetwork
from qra.types import Batch


class RobustTransfer(ImageClassifier):
    """Learn from a robust teacher; the callback ``TeacherDistillation`` brings it.

    The teacher may be of another architecture, quantized, or the network that the student starts from.

    Args:
        network: The student. Takes pixels in [0, 1], (N, C, H, W), and returns logits.
        transfer: What is learned from the teacher.
        settings: The other arguments of :class:`ImageClassifier`.
    """

    selection_metric: ClassVar[str] = "val/robust_acc"

    def __init__(self, network: nn.Module, transfer: TransferLoss = RSLAD(), **settings: Any) -> None:
        super().__init__(network, **settings)
        self.transfer = transfer
        self._teacher: list[FrozenNetwork] = []  # in a list: not a submodule, so no checkpoint or optimizer sees it

    def learn_from(self, teacher: FrozenNetwork) -> None:
        """Take a teacher, before training.

        Raises:
            ValueError: If features are to be compared and the two networks do not have equally many.
        """
        if self._teacher and self._teacher[0] is teacher:
            return
        self._teacher[:] = [teacher.eval()]
        if self.transfer.by_features:
            self._check_features(teacher)
        elif self.compile_network:
            teacher.network.compile()

    def _check_features(self, teacher: FrozenNetwork) -> None:
        student_dim, teacher_dim = (last_linear(network).in_features for network in (self.network, teacher))
        if student_dim != teacher_dim:
            raise ValueError(
                f"{type(self.transfer).__name__} compares penultimate features, but the student has {student_dim} and "
                f"the teacher {teacher_dim}: take a teacher of the student's width, or a transfer by logits such as "
                "RSLAD"
            )

    @property
    def teacher(self) -> FrozenNetwork:
        """The teacher, in eval mode; its parameters take no gradients.

        Raises:
            ValueError: If there is none.
        """
        if not self._teacher:
            raise ValueError(
                "RobustTransfer has no teacher: add --trainer.callbacks+ configs/callback/teacher.yaml and give its "
                "checkpoint by --trainer.callbacks.teacher FILE"
            )
        return self._teacher[0]

    @torch.no_grad()
    def teacher_logits(self, x: Tensor) -> Tensor:
        """The teacher's logits, (N, C), without a graph."""
        logits: Tensor = self.teacher(x)
        return logits

    @torch.no_grad()
    def teacher_features(self, x: Tensor) -> Tensor:
        """The teacher's penultimate features, (N, D), without a graph."""
        self.teacher.check(x)
        return with_features(self.teacher.network, x)[1]

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The student's logits, (N, C), and penultimate features, (N, D)."""
        return with_features(self.network, x)

    def check_fit(self) -> None:
        _ = self.teacher  # callbacks come first: it is here, or will never be

    def training_loss(self, batch: Batch) -> Tensor:
        return self.transfer(self, batch)

    def log_transfer(self, batch: Batch, teacher_logits: Tensor, logits: Tensor | None, logits_adv: Tensor) -> None:
        """Log the accuracies in training, and as ``train/teacher_kl`` how far the student is from the teacher.

        Args:
            batch: Whose labels count.
            teacher_logits: What the student is to predict.
            logits: Its clean logits, which are compared if it has seen the clean images.
            logits_adv: Its adversarial logits.
        """
        if logits is not None:
            self.log_accuracy("clean_acc", logits, batch.y)
        self.log_accuracy("robust_acc", logits_adv, batch.y)
        compared = losses.at_least_float32((logits_adv if logits is None else logits).detach())
        distance = losses.kl(compared, teacher_logits).mean()
        self.log_mean("teacher_kl", distance, len(batch.y))
