"""Auto-PGD (Croce and Hein 2020, arXiv 2003.01690): PGD with momentum and automatic step sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from qra import losses
from qra.attacks.base import EvaluationAttack, replayed
from qra.attacks.pass_count import GRADIENT, PassCount
from qra.attacks.state import AttackState, finite, length, margin_of, unit
from qra.checks import check_attack, check_choice
from qra.losses import prediction
from qra.types import Norm, Pixels

APGDLoss = Literal["cross_entropy", "dlr", "targeted_dlr"]

_MOMENTUM = 0.75
_RHO = 0.75


@dataclass(frozen=True)
class APGD(EvaluationAttack):
    """PGD with momentum that halves its step and returns to the best point so far whenever progress stalls.

    Croce and Hein 2020, algorithm 1, with the schedule and the random draws of the authors' code: on the same images,
    with the same seed, the same examples break.

    Args:
        eps: Radius of the ball, in pixel units.
        norm: Norm of the ball and of the steps.
        loss: Loss to maximize. ``targeted_dlr`` aims at several classes in turn.
        steps: Number of steps, for each target.
        targets: Number of classes that ``targeted_dlr`` aims at, the most likely wrong ones first; all wrong classes if
            there are fewer.
        seed: Seed of the random starts.

    Raises:
        ValueError: If a setting is out of range; when called, if the network has too few classes for the loss.
    """

    eps: Pixels = 8 / 255
    norm: Norm = "linf"
    loss: APGDLoss = "cross_entropy"
    steps: int = 100
    targets: int = 9
    seed: int = 0

    needs_fixed_chunks = True

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, get_args(APGDLoss))
        check_attack(self, "steps", "targets")

    @property
    def title(self) -> str:
        return {"cross_entropy": "APGD-CE", "dlr": "APGD-DLR", "targeted_dlr": "APGD-T"}[self.loss]

    @property
    def key(self) -> str:
        return self.title.lower().replace("-", "_")

    def in_chunk(self, number: int) -> APGD:
        return replace(self, seed=self.seed + number)

    def run(self, state: AttackState) -> None:
        if self.eps == 0:
            return
        generator = torch.Generator().manual_seed(self.seed)
        for rank in self._ranks(state.classes):
            left = state.survivors()
            if len(left) == 0:
                return
            self._climb(state, Climb(self, state, left, rank, self._start(state.x[left], generator)))

    def passes(self, classes: int) -> PassCount:
        return GRADIENT.times(self.steps * len(self._ranks(classes)))

    def objective(self, logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
        """Return the loss to maximize, per example: logits (N, classes) to (N,)."""
        if target is not None:
            return losses.targeted_dlr(logits, y, target)
        return losses.dlr(logits, y) if self.loss == "dlr" else losses.cross_entropy(logits, y)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Project ``x_adv`` onto the ball around ``x`` and the pixel range [0, 1]."""
        if self.norm == "linf":
            return x_adv.clamp((x - self.eps).clamp_(min=0), (x + self.eps).clamp_(max=1))
        delta = x_adv - x
        return (x + unit(delta, "l2") * length(delta, "l2").clamp_(max=self.eps)).clamp_(0, 1)

    def _ranks(self, classes: int) -> list[int | None]:
        return [*range(2, min(self.targets, classes - 1) + 2)] if self.loss == "targeted_dlr" else [None]

    def _start(self, x: Tensor, generator: torch.Generator) -> Tensor:
        # drawn on the CPU, so that every device starts from the same point
        if self.norm == "linf":
            noise = 2 * torch.rand(x.shape, generator=generator) - 1
        else:
            noise = torch.randn(x.shape, generator=generator)
        return (x + self.eps * unit(noise.to(x), self.norm)).clamp_(0, 1)

    def _climb(self, state: AttackState, climb: Climb) -> None:
        for step in range(self.steps + 1):
            if step:
                climb.move(last=step == self.steps)
                state.on_step(GRADIENT.work)
            kept = state.record_success(climb.left, climb.fooled, climb.x_adv, margin=climb.margin)
            if kept is not None:
                climb.keep(kept)
                if len(climb.left) == 0:
                    return
            if step:
                climb.learn()
        state.judge()


class Climb:
    """The state of APGD on some examples; each of its tensors has one row per example.

    Attributes:
        left: Positions of the examples in the :class:`AttackState`.
        x_adv: The current point.
        fooled: Whether the current point is misclassified.
        margin: Margin at the current point, see :func:`margin_of`.
        best: The point of highest loss so far.
        best_loss: The loss there.
    """

    def __init__(self, attack: APGD, state: AttackState, left: Tensor, rank: int | None, start: Tensor) -> None:
        self._attack, self._network = attack, state.search
        self._taken = 0
        self._gap = max(int(0.22 * attack.steps), 1)
        self._next_check = self._gap
        self.left = left
        self.x, self.y = state.x[left], state.y[left]
        self.target: tuple[Tensor, ...] = () if rank is None else (state.targets(left, rank),)
        self.x_adv = self.before = self.best = start
        self.look(last=False)
        self.best_gradient, self.best_loss = self.gradient, self.loss
        self.checked_loss = self.loss
        self.halved = torch.ones_like(self.fooled)
        self.step_size = torch.full_like(self.x[:, :1, :1, :1], 2 * attack.eps)
        self.share = torch.ones_like(self.step_size)
        self.history = torch.zeros_like(self.x[:, 0, 0, :1]).repeat(1, attack.steps)

    def look(self, last: bool) -> None:
        """Compute loss, success, margin and, unless it is the last point, gradient at ``x_adv``."""
        self._see(*replayed(self._network, _Look(self._attack, last), self.x_adv, self.y, *self.target))

    def _see(self, loss: Tensor, fooled: Tensor, margin: Tensor, gradient: Tensor | None = None) -> None:
        self.loss, self.fooled, self.margin = loss, fooled, margin
        if gradient is not None:
            self.gradient = gradient

    def move(self, last: bool) -> None:
        """Take one step and evaluate the new point."""
        if self._taken == 1:
            self.share = torch.full_like(self.step_size, _MOMENTUM)
        state = self.x, self.x_adv, self.before, self.gradient, self.step_size, self.share, self.y, *self.target
        self.before = self.x_adv
        self.x_adv, *seen = replayed(self._network, _Step(self._attack, last), *state)
        self._taken += 1
        self._see(*seen)

    def learn(self) -> None:
        """Update the best point; at a checkpoint, halve the step and return to it where progress has stalled."""
        self.history[:, self._taken - 1] = self.loss
        better = self.loss > self.best_loss
        image = better[:, None, None, None]
        self.best = torch.where(image, self.x_adv, self.best)
        self.best_gradient = torch.where(image, self.gradient, self.best_gradient)
        self.best_loss = torch.where(better, self.loss, self.best_loss)
        if self._taken == self._next_check:
            self._check()

    def _check(self) -> None:
        places = torch.arange(self._taken - self._gap, self._taken, device=self.x.device)
        # the first checkpoint compares the first loss with entry -1, which is still 0, as in the authors' code
        increases = (self.history[:, places] > self.history[:, places - 1]).sum(1)
        stuck = ~self.halved & (self.checked_loss >= self.best_loss)
        self.halved = (increases <= _RHO * self._gap) | stuck
        self.checked_loss = self.best_loss
        image = self.halved[:, None, None, None]
        self.step_size = torch.where(image, self.step_size / 2, self.step_size)
        self.x_adv = torch.where(image, self.best, self.x_adv)
        self.gradient = torch.where(image, self.best_gradient, self.gradient)
        steps = self._attack.steps
        self._gap = max(self._gap - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
        self._next_check += self._gap

    def keep(self, kept: Tensor) -> None:
        """Keep only the given examples."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[kept])
        self.target = tuple(target[kept] for target in self.target)


@dataclass(frozen=True)
class _Look:
    """Computes loss, success, margin and, unless it is the last point, gradient at a point."""

    attack: APGD
    last: bool

    def __call__(self, model: nn.Module, x_adv: Tensor, y: Tensor, target: Tensor | None = None) -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(not self.last):
            x_adv = x_adv.detach().requires_grad_(not self.last)
            logits = losses.at_least_float32(model(x_adv))
            loss = self.attack.objective(logits, y, target)
        gradient = () if self.last else torch.autograd.grad(loss.sum(), x_adv)
        logits = logits.detach()
        return loss.detach(), prediction(logits) != y, margin_of(logits, y), *gradient


@dataclass(frozen=True)
class _Step:
    """Computes the next point, and evaluates it as :class:`_Look` does."""

    attack: APGD
    last: bool

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        x_adv: Tensor,
        before: Tensor,
        gradient: Tensor,
        step_size: Tensor,
        share: Tensor,
        y: Tensor,
        target: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        attack = self.attack
        direction = gradient.sign() if attack.norm == "linf" else unit(finite(gradient), "l2")
        ahead = attack.project(x_adv + step_size * direction, x)
        x_adv = attack.project(x_adv + (ahead - x_adv) * share + (x_adv - before) * (1 - share), x)
        return x_adv, *_Look(attack, self.last)(model, x_adv, y, target)
