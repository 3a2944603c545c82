"""Fast Adaptive Boundary attack (Croce and Hein 2020, arXiv 1907.02044): the nearest point of another class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qra.attacks.base import EvaluationAttack, replayed
from qra.attacks.pass_count import PassCount
from qra.attacks.planes import project_onto_plane
from qra.attacks.state import AttackState, finite, length
from qra.checks import check_attack
from qra.losses import prediction
from qra.types import Norm, Pixels

_ALPHA_MAX = 0.1
_ETA = 1.05
_BETA = 0.9
_STEP = PassCount(2, 1)


@dataclass(frozen=True)
class FAB(EvaluationAttack):
    """Projects onto the linearized boundary to a target class in each step, with a bias towards the clean image.

    Croce and Hein 2020, algorithm 1, targeted, without random starts, as in the authors' code. That code looks for the
    smallest perturbation; this one stops working on an example as soon as a perturbation within ``eps`` is found. The
    same examples break. Targets are independent of each other and are processed in parallel.

    Args:
        eps: Largest perturbation that counts, in pixel units.
        norm: Norm of the perturbation.
        steps: Number of steps, for each target.
        targets: Number of classes aimed at, the most likely wrong ones first; all wrong classes if there are fewer.

    Raises:
        ValueError: If a setting is out of range.
    """

    eps: Pixels = 8 / 255
    norm: Norm = "linf"
    steps: int = 100
    targets: int = 9

    def __post_init__(self) -> None:
        check_attack(self, "steps", "targets")

    @property
    def title(self) -> str:
        return "FAB-T"

    @property
    def key(self) -> str:
        return "fab_t"

    def run(self, state: AttackState) -> None:
        left = state.survivors()
        ranks = range(2, min(self.targets, state.classes - 1) + 2)
        if len(left) == 0 or self.eps == 0:
            return
        positions = left.repeat(len(ranks))
        targets = torch.cat([state.targets(left, rank) for rank in ranks])
        share = _STEP.work / len(left)
        while len(positions):
            batch = len(state.x)  # the caller's batch is known to fit in memory
            self._approach(state, positions[:batch], targets[:batch], share)
            positions, targets = positions[batch:], targets[batch:]
            alive = ~state.broken[positions]
            positions, targets = positions[alive], targets[alive]

    def passes(self, classes: int) -> PassCount:
        return _STEP.times(self.steps * min(self.targets, classes - 1))

    def _approach(self, state: AttackState, positions: Tensor, targets: Tensor, share: float) -> None:
        x, y = state.x[positions], state.y[positions]
        x_adv = x
        for _ in range(self.steps):
            state.on_step(share * len(positions))
            found, is_success, x_adv = replayed(state.search, _Step(self.eps, self.norm), x, x_adv, y, targets)
            kept = state.record_success(positions, is_success, found)
            if kept is not None:
                positions, targets, x, y, x_adv = (t[kept] for t in (positions, targets, x, y, x_adv))
                if len(positions) == 0:
                    return
        state.judge()


@dataclass(frozen=True)
class _Step:
    """A step to the boundary between label and target.

    It returns the images there, whether each is misclassified and within ``eps``, and the images to continue from.
    """

    eps: float
    norm: Norm

    def __call__(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        gap, gradient = _boundary(model, x_adv, y, targets)
        w = gradient.flatten(1)
        offset = (gradient * x_adv).flatten(1).sum(1) - gap
        points = torch.cat([x_adv, x]).flatten(1)
        ways = project_onto_plane(points, w.repeat(2, 1), offset.repeat(2), self.norm)
        to_plane, from_clean = ways.view(2, *x.shape).unbind()
        near, far = (length(delta, self.norm).clamp_(min=1e-8) for delta in (to_plane, from_clean))
        alpha = (near / (near + far)).clamp_(max=_ALPHA_MAX)
        found = ((x_adv + _ETA * to_plane) * (1 - alpha) + (x + from_clean * _ETA) * alpha).clamp_(0, 1)
        with torch.no_grad():
            fooled = prediction(model(found)) != y
        is_near = length(found - x, self.norm).flatten() <= self.eps
        onwards = torch.where(fooled[:, None, None, None], x + (found - x) * _BETA, found)
        return found, fooled & is_near, onwards


def _boundary(model: nn.Module, x_adv: Tensor, y: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the target's logit minus the label's, (N,), and the gradient of this difference, like ``x_adv``."""
    x_adv = x_adv.detach().requires_grad_()
    logits = model(x_adv)
    gap = logits.gather(1, targets[:, None]) - logits.gather(1, y[:, None])
    (gradient,) = torch.autograd.grad(gap.sum(), x_adv)
    return gap.detach()[:, 0], finite(gradient)
