"""The fast gradient sign method, started at the image or at random noise."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from qra.attacks.base import Attack
from qra.attacks.pass_count import GRADIENT, PassCount
from qra.attacks.pgd import PGD
from qra.attacks.start import Start, ZeroStart
from qra.types import Norm, Pixels


@dataclass(frozen=True)
class FGSM(Attack):
    """One step that increases the cross-entropy with the labels ``y`` (N,): PGD with one step.

    The defaults are FGSM (Goodfellow et al. 2015, section 4). Random-start FGSM (FGSM-RS, Wong et al. 2020, algorithm
    3) is ``FGSM(8 / 255, step_size=10 / 255, start=UniformStart())``: a step of 1.25 ``eps``.

    Args:
        eps: Radius of the ball, in pixel units; 0 returns the images unchanged.
        step_size: Length of the step, in pixel units; defaults to ``eps``.
        start: The initial perturbation.
        norm: Norm of the ball and of the step.

    Raises:
        ValueError: If a setting is out of range.
    """

    eps: Pixels = 8 / 255
    step_size: Pixels | None = None
    start: Start = field(default_factory=ZeroStart)
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        pgd = self.as_pgd()
        object.__setattr__(self, "eps", pgd.eps)
        if self.step_size is not None:
            object.__setattr__(self, "step_size", pgd.step_size)

    def as_pgd(self) -> PGD:
        """Return the same attack as a :class:`PGD` with one step."""
        step_size = self.eps if self.step_size is None else self.step_size
        return PGD(self.eps, step_size, steps=1, start=self.start, norm=self.norm)

    @property
    def title(self) -> str:
        return "FGSM" if isinstance(self.start, ZeroStart) else "FGSM from random starts"

    def passes(self, classes: int) -> PassCount:
        return GRADIENT

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor, epoch: int) -> Tensor:
        return self.as_pgd().perturb(model, x, y, index, epoch)
