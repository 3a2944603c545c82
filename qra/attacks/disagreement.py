"""An attack that maximizes the disagreement of two networks, with gradients through both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qra import losses
from qra.attacks.pgd import PGD
from qra.attacks.state import AttackState


class SideBySide(nn.Module):
    """Runs two networks on the same images and returns the student's logits followed by the teacher's, (N, 2 C)."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.student(x), self.teacher(x)], dim=1)


@dataclass(frozen=True)
class DisagreementPGD(PGD):
    """PGD that drives a student away from its teacher: it maximizes KL(teacher || student) at the same image.

    The attacked model must be a :class:`SideBySide`. The labels ``y`` (N,) only decide when an example is fooled. The
    arguments are those of :class:`PGD`.

    Raises:
        ValueError: If ``loss`` or ``targeted`` is set, or another setting is out of range; when called, if the model is
            not a :class:`SideBySide`.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss != "cross_entropy" or self.targeted:
            raise ValueError("DisagreementPGD defines its own loss: leave out loss and targeted")

    @property
    def title(self) -> str:
        return f"disagreement PGD-{self.steps}"

    def unsuited(self, state: AttackState) -> str | None:
        return _unsuited(state.search)

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor, epoch: int) -> Tensor:
        if (reason := _unsuited(model)) is not None:
            raise ValueError(reason)
        return super().perturb(model, x, y, index, epoch)

    def objective(self, logits: Tensor, y: Tensor) -> Tensor:
        student, teacher = logits.chunk(2, dim=1)
        return losses.kl(student, teacher)

    def is_fooled(self, logits: Tensor, y: Tensor) -> Tensor:
        return super().is_fooled(logits.chunk(2, dim=1)[0], y)


def _unsuited(model: nn.Module) -> str | None:
    if isinstance(model, SideBySide):
        return None
    return (
        f"DisagreementPGD attacks a student and its teacher side by side, not a {type(model).__name__}: it is the "
        "inner maximization of AdaAD; elsewhere use PGD"
    )
