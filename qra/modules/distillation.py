"""Learning from a robust teacher: the module, and what it learns, one object an idea."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qra import losses
from qra.attacks import PGD, Attack, DisagreementPGD, GaussianStart, SideBySide
from qra.checks import check_count, check_in
from qra.losses import Reduction
from qra.models import last_linear, with_features
from qra.modules.aims import check_attack
from qra.modules.classifier import ImageClassifier
from qra.quant import FrozenNetwork
from qra.types import Batch


class TransferLoss(ABC):
    """The training loss of :class:`RobustTransfer`; a subclass is a frozen dataclass.

    Attributes:
        by_features: Whether it compares penultimate features, which then must be as many in both networks.
    """

    by_features: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, student: RobustTransfer, batch: Batch) -> Tensor:
        """The loss of one batch.

        Args:
            student: The module in training: ask it for logits, features, adversarial images and the teacher.
            batch: Float images in [0, 1], labels and data set indices.

        Returns:
            A scalar to be minimized.
        """


@dataclass(frozen=True)
class RSLAD(TransferLoss):
    """Predict what the teacher predicts on clean images, near them and on them; no labels (Zi et al. 2021).

    Args:
        attack: Moves the student away from the teacher's clean logits: one with the loss ``kl``.
        natural_weight: Share of the clean images in the loss.
        reduction: ``mean`` as in the published code makes loss and gradients smaller by the number of classes.
    """

    attack: Attack = PGD(start=GaussianStart(), loss="kl")
    natural_weight: float = 1 / 6
    reduction: Reduction = "batchmean"

    def __post_init__(self) -> None:
        check_attack(self.attack, on_logits=True)
        check_in("natural_weight", self.natural_weight, "[0, 1]")

    def __call__(self, student: RobustTransfer, batch: Batch) -> Tensor:
        teacher_logits = student.teacher_logits(batch.x)
        x_adv = student.maximize(self.attack, batch, teacher_logits)
        logits_adv, logits = student(x_adv), student(batch.x)
        student.log_transfer(batch, teacher_logits, logits, logits_adv)
        return losses.rslad(logits, logits_adv, teacher_logits, self.natural_weight, self.reduction)


@dataclass(frozen=True)
class ARD(TransferLoss):
    """Predict near an image what the teacher predicts on it, softened, and its label on it (Goldblum et al. 2020).

    Args:
        attack: Inner maximization, on the labels.
        temperature: Divides the logits of both.
        kd_weight: Share of the teacher, in [0, 1]; the labels have the rest. With 1 the student sees no clean images.
        reduction: ``mean`` as in the published code makes the teacher's term smaller by the number of classes.
    """

    attack: Attack = PGD()
    temperature: float = 30.0
    kd_weight: float = 1.0
    reduction: Reduction = "batchmean"

    def __post_init__(self) -> None:
        check_attack(self.attack, on_logits=False)
        check_in("temperature", self.temperature, "(0, inf)")
        check_in("kd_weight", self.kd_weight, "[0, 1]")

    def __call__(self, student: RobustTransfer, batch: Batch) -> Tensor:
        teacher_logits = student.teacher_logits(batch.x)
        logits_adv = student(student.maximize(self.attack, batch))
        logits = student(batch.x) if self.kd_weight < 1 else None
        student.log_transfer(batch, teacher_logits, logits, logits_adv)
        return losses.ard(logits, logits_adv, teacher_logits, batch.y, self.temperature, self.kd_weight, self.reduction)


@dataclass(frozen=True)
class IAD(TransferLoss):
    """As much of the teacher as it withstands the student's adversarial images (Zhu et al. 2022).

    Args:
        attack: Inner maximization, on the labels.
        beta: Sharpness of the trust in the teacher.
        warmup_epochs: Epochs at the start in which the teacher is trusted fully; 60 of 200 in the published code.
        weigh_teacher: Whether trust weighs the teacher's term too; in the published code it does not.
    """

    attack: Attack = PGD()
    beta: float = 0.1
    warmup_epochs: int = 0
    weigh_teacher: bool = True

    def __post_init__(self) -> None:
        check_attack(self.attack, on_logits=False)
        check_in("beta", self.beta, "[0, inf)")
        check_count("warmup_epochs", self.warmup_epochs, 0)

    def __call__(self, student: RobustTransfer, batch: Batch) -> Tensor:
        teacher_logits = student.teacher_logits(batch.x)
        x_adv = student.maximize(self.attack, batch)
        logits_adv, logits = student(x_adv), student(batch.x)
        student.log_transfer(batch, teacher_logits, logits, logits_adv)
        if student.current_epoch < self.warmup_epochs:
            return losses.ard(None, logits_adv, teacher_logits, batch.y, temperature=1.0)
        teacher_logits_adv = student.teacher_logits(x_adv)
        return losses.iad(
            logits, logits_adv, teacher_logits, teacher_logits_adv, batch.y, self.beta, self.weigh_teacher
        )


@dataclass(frozen=True)
class AdaAD(TransferLoss):
    """Agree with the teacher where the two disagree most (Huang et al. 2023).

    Args:
        attack: Takes gradients through both networks, so that a step costs the teacher's backward pass as well.
        natural_weight: Share of the clean images in the loss, 0 by default in the published code, which shows them to
            the student all the same, so that its batch statistics are of both kinds of images. Here they are left out.
        reduction: ``mean`` as in the published code for CIFAR-10 makes loss and gradients smaller by the number of
            classes; for CIFAR-100 it takes ``batchmean``.
    """

    attack: DisagreementPGD = DisagreementPGD(start=GaussianStart())
    natural_weight: float = 0.0
    reduction: Reduction = "batchmean"

    def __post_init__(self) -> None:
        check_in("natural_weight", self.natural_weight, "[0, 1]")

    def __call__(self, student: RobustTransfer, batch: Batch) -> Tensor:
        both = SideBySide(student.attack_network(), student.teacher)
        x_adv = student.maximize(self.attack, batch, network=both)
        logits_adv, teacher_logits_adv = student(x_adv), student.teacher_logits(x_adv)
        if self.natural_weight == 0:
            student.log_transfer(batch, teacher_logits_adv, None, logits_adv)
            return losses.adaad(None, logits_adv, None, teacher_logits_adv, reduction=self.reduction)
        logits, teacher_logits = student(batch.x), student.teacher_logits(batch.x)
        student.log_transfer(batch, teacher_logits, logits, logits_adv)
        weights = self.natural_weight, self.reduction
        return losses.adaad(logits, logits_adv, teacher_logits, teacher_logits_adv, *weights)


@dataclass(frozen=True)
class RRM(TransferLoss):
    """Features in the direction of the teacher's, on clean images only (Vaishnavi et al. 2022).

    Args:
        cross_entropy_weight: Weight of the labels beside it.
    """

    by_features: ClassVar[bool] = True

    cross_entropy_weight: float = 0.005

    def __post_init__(self) -> None:
        check_in("cross_entropy_weight", self.cross_entropy_weight, "[0, inf)")

    def __call__(self, student: RobustTransfer, batch: Batch) -> Tensor:
        logits, features = student.features(batch.x)
        student.log_accuracy("clean_acc", logits, batch.y)
        return losses.rrm(logits, features, student.teacher_features(batch.x), batch.y, self.cross_entropy_weight)


@dataclass(frozen=True)
class LwF(TransferLoss):
    """Labels, and features near the teacher's, on clean images only (Shafahi et al. 2020).

    Start from a robust network by ``init_from``: the features are held where they are, not found.

    Args:
        feature_weight: Weight of the L1 distance of the features.
    """

    by_features: ClassVar[bool] = True

    feature_weight: float = 0.005

    def __post_init__(self) -> None:
        check_in("feature_weight", self.feature_weight, "[0, inf)")

    def __call__(self, student: RobustTransfer, batch: Batch) -> Tensor:
        logits, features = student.features(batch.x)
        student.log_accuracy("clean_acc", logits, batch.y)
        return losses.lwf(logits, features, student.teacher_features(batch.x), batch.y, self.feature_weight)


class RobustTransfer(ImageClassifier):
    """Learn from a robust teacher; the callback ``TeacherDistillation`` brings it.

    The teacher may be of another architecture, quantized, or the network that the student starts from.

    Args:
        network: The student. Takes pixels in [0, 1], (N, C, H, W), and returns logits.
        transfer: What is learned from the teacher.
        settings: The other arguments of :class:`ImageClassifier`.
    """

    selection_metric: ClassVar[str] = "val/robust_acc"
    is_adversarial: ClassVar[bool] = True

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
                "RobustTransfer has no teacher: add --trainer.callbacks+ callback/teacher and give its "
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
            batch: Batch whose labels count.
            teacher_logits: What the student is to predict.
            logits: The student's clean logits, which are compared if it has seen the clean images.
            logits_adv: The student's adversarial logits.
        """
        if logits is not None:
            self.log_accuracy("clean_acc", logits, batch.y)
        self.log_accuracy("robust_acc", logits_adv, batch.y)
        compared = losses.at_least_float32((logits_adv if logits is None else logits).detach())
        distance = losses.kl(compared, teacher_logits).mean()
        self.log_mean("teacher_kl", distance, len(batch.y))
