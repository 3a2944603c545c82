"""Robust transfer: the module that learns from a robust teacher, and one class for each transfer loss."""

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
    """Base class of the training losses of :class:`RobustTransfer`; subclasses are frozen dataclasses.

    Attributes:
        by_features: Whether it compares penultimate features, of which both networks must then have the same number.
    """

    by_features: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, student: RobustTransfer, batch: Batch) -> Tensor:
        """Compute the loss of one batch.

        Args:
            student: Module in training, which provides logits, features, adversarial images and the teacher.
            batch: Float images in [0, 1], labels and dataset indices.

        Returns:
            The scalar loss to minimize.
        """


@dataclass(frozen=True)
class RSLAD(TransferLoss):
    """RSLAD: match the teacher's clean predictions on clean and on adversarial images, no labels (Zi et al. 2021).

    Args:
        attack: Inner maximization, away from the teacher's clean logits; its loss must be ``kl``.
        natural_weight: Weight of the clean term in the loss, in [0, 1]; the adversarial term has the rest.
        reduction: ``batchmean``, or ``mean`` as in the published code, which divides loss and gradients by the number
            of classes.
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
    """ARD: match the teacher's softened clean predictions on adversarial images, and labels (Goldblum et al. 2020).

    The label term is the cross-entropy on clean images.

    Args:
        attack: Inner maximization; it moves away from the labels.
        temperature: Divisor of the logits of both networks.
        kd_weight: Weight of the distillation term, in [0, 1]; the cross-entropy has the rest. With 1 the student sees
            no clean images.
        reduction: ``batchmean``, or ``mean`` as in the published code, which divides the distillation term by the
            number of classes.
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
    """IAD: trust the teacher as far as it withstands the student's adversarial images (Zhu et al. 2022).

    Args:
        attack: Inner maximization; it moves away from the labels.
        beta: Exponent of the teacher's probability of the label on the adversarial image, which is the trust in it.
        warmup_epochs: Number of epochs at the start in which the teacher is fully trusted; 60 of 200 in the published
            code.
        weigh_teacher: Whether trust also weighs the teacher's term; in the published code it does not.
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
    """AdaAD: match the teacher where the two networks disagree most (Huang et al. 2023).

    Args:
        attack: Inner maximization of the disagreement. It differentiates both networks, so each step also costs the
            teacher's backward pass.
        natural_weight: Weight of the clean term in the loss, in [0, 1]. With 0, the default as in the published code,
            the student sees no clean images; the published code still passes them through the student, so that its
            batch statistics are of both kinds of images.
        reduction: ``batchmean``, as in the published code for CIFAR-100, or ``mean``, as in that for CIFAR-10, which
            divides loss and gradients by the number of classes.
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
    """RRM: align the direction of the features with the teacher's, on clean images only (Vaishnavi et al. 2022).

    Args:
        cross_entropy_weight: Weight of the cross-entropy on the labels; the cosine term has weight 1.
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
    """LwF: learn the labels while staying near the teacher's features, on clean images only (Shafahi et al. 2020).

    Start from a robust network by ``init_from``: this loss preserves robust features but does not find them.

    Args:
        feature_weight: Weight of the L1 distance between the features of the two networks.
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
    """Learn from a robust teacher, which the callback ``TeacherDistillation`` provides.

    The teacher may have another architecture, be quantized, or be the network that the student starts from.

    Args:
        network: The student, which maps pixels in [0, 1], (N, C, H, W), to logits.
        transfer: Loss that defines what is learned from the teacher.
        settings: The other arguments of :class:`ImageClassifier`.
    """

    selection_metric: ClassVar[str] = "val/robust_acc"
    is_adversarial: ClassVar[bool] = True

    def __init__(self, network: nn.Module, transfer: TransferLoss = RSLAD(), **settings: Any) -> None:
        super().__init__(network, **settings)
        self.transfer = transfer
        self._teacher: list[FrozenNetwork] = []  # a list keeps it from being a submodule, in checkpoints and optimizers

    def learn_from(self, teacher: FrozenNetwork) -> None:
        """Set the teacher, before training.

        Raises:
            ValueError: If features are compared and the two networks have different numbers of them.
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
                f"the teacher {teacher_dim}: use a teacher of the student's width, or a transfer by logits such as "
                "RSLAD"
            )

    @property
    def teacher(self) -> FrozenNetwork:
        """The teacher, in eval mode; its parameters receive no gradients.

        Raises:
            ValueError: If no teacher has been set.
        """
        if not self._teacher:
            raise ValueError(
                "RobustTransfer has no teacher: add --trainer.callbacks+ callback/teacher and give its "
                "checkpoint by --trainer.callbacks.teacher FILE"
            )
        return self._teacher[0]

    @torch.no_grad()
    def teacher_logits(self, x: Tensor) -> Tensor:
        """Return the teacher's logits, (N, C), without an autograd graph."""
        logits: Tensor = self.teacher(x)
        return logits

    @torch.no_grad()
    def teacher_features(self, x: Tensor) -> Tensor:
        """Return the teacher's penultimate features, (N, D), without an autograd graph."""
        self.teacher.check(x)
        return with_features(self.teacher.network, x)[1]

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the student's logits, (N, C), and penultimate features, (N, D)."""
        return with_features(self.network, x)

    def check_fit(self) -> None:
        _ = self.teacher  # callbacks are set up first, so a missing teacher is an error here

    def training_loss(self, batch: Batch) -> Tensor:
        return self.transfer(self, batch)

    def log_transfer(self, batch: Batch, teacher_logits: Tensor, logits: Tensor | None, logits_adv: Tensor) -> None:
        """Log training accuracies, and the student's KL divergence from the teacher as ``train/teacher_kl``.

        Args:
            batch: Batch with the labels.
            teacher_logits: Teacher logits that the student learns to match, (N, C).
            logits: The student's logits on clean images, (N, C); None if it has not seen them, in which case the
                divergence is that of ``logits_adv``.
            logits_adv: The student's logits on adversarial images, (N, C).
        """
        if logits is not None:
            self.log_accuracy("clean_acc", logits, batch.y)
        self.log_accuracy("robust_acc", logits_adv, batch.y)
        compared = losses.at_least_float32((logits_adv if logits is None else logits).detach())
        distance = losses.kl(compared, teacher_logits).mean()
        self.log_mean("teacher_kl", distance, len(batch.y))
