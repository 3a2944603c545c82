"""What a student learns from its teacher: one object an idea, each with its own inner maximization or none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from qra import losses
from qra.attacks import PGD, Attack, DisagreementPGD, GaussianStart, SideBySide
from qra.losses import Reduction
from qra.modules.adversarial import check_attack
from qra.types import Batch

if TYPE_CHECKING:
    from qra.modules.transfer import RobustTransfer


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
        losses.check_share("natural_weight", self.natural_weight)

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
        attack: On the labels.
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
        losses.check_distillation(self.temperature, self.kd_weight)

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
        attack: On the labels.
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
        for name in ("beta", "warmup_epochs"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}: it must be finite and at least 0")

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
    """

    attack: DisagreementPGD = DisagreementPGD(start=GaussianStart())

    def __call__(self, student: RobustTransfer, batch: Batch) -> Tensor:
        both = SideBySide(student.attack_network(), student.teacher)
        x_adv = student.maximize(self.attack, batch, network=both)
        logits_adv, teacher_logits_adv = student(x_adv), student.teacher_logits(x_adv)
        student.log_transfer(batch, teacher_logits_adv, None, logits_adv)
        return losses.adaad(logits_adv, teacher_logits_adv)


@dataclass(frozen=True)
class RRM(TransferLoss):
    """Features in the direction of the teacher's, on clean images only (Vaishnavi et al. 2022).

    Args:
        cross_entropy_weight: Weight of the labels beside it.
    """

    by_features: ClassVar[bool] = True

    cross_entropy_weight: float = 0.005

    def __post_init__(self) -> None:
        _check_weight("cross_entropy_weight", self.cross_entropy_weight)

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
        _check_weight("feature_weight", self.feature_weight)

    def __call__(self, student: RobustTransfer, batch: Batch) -> Tensor:
        logits, features = student.features(batch.x)
        student.log_accuracy("clean_acc", logits, batch.y)
        return losses.lwf(logits, features, student.teacher_features(batch.x), batch.y, self.feature_weight)


def _check_weight(name: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} is {value}: it weighs a term of the loss, so it must be finite and at least 0")
