"""Projected gradient descent (Madry et al. 2018), whose parts are methods that a subclass may override."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from qra import losses
from qra.attacks.base import Aim, Attack, in_parts, replayed
from qra.attacks.pass_count import GRADIENT, PassCount
from qra.attacks.start import Start, UniformStart
from qra.attacks.state import AttackState, finite, margin_of
from qra.checks import check_choice, check_count, pixel_length
from qra.types import Norm, Pixels

AttackLoss = Literal["cross_entropy", "dlr", "cw_margin", "kl"]

_LOSSES = {
    "cross_entropy": losses.cross_entropy,
    "dlr": losses.dlr,
    "cw_margin": losses.cw_margin,
    "kl": losses.kl,
}


@dataclass(frozen=True)
class PGD(Attack):
    """Steps along the gradient's sign (L-inf) or direction (L2), each projected onto the ball and the pixel range.

    Madry et al. 2018, section 2.1. A subclass may override :meth:`objective`, :meth:`first_iterate`, :meth:`gradient`,
    :meth:`ascend`, :meth:`project` or :meth:`is_fooled`. One restart without early stopping costs exactly one forward
    and one backward pass per step.

    Args:
        eps: Radius of the ball, in pixel units; 0 returns the images unchanged.
        step_size: Length of a step, in pixel units. The default is for L-inf: in L2 give ``eps / 4`` or so.
        steps: Number of steps; 0 returns the initial noise, a baseline for defences with gradient masking.
        restarts: Number of starts. The worst final iterate of each example is kept: a misclassified one if there is
            any, else the one of highest loss.
        start: The initial perturbation.
        norm: Norm of the ball and of the step.
        loss: Loss to maximize. With ``kl``, the attack's ``y`` are the logits (N, C) to move away from.
        targeted: Whether ``y`` is the class to reach instead of the class to leave; the loss is then minimized.
        early_stop: Whether an example leaves the batch at its first misclassified iterate, so that later restarts run
            on the survivors only. An example is then broken if any iterate is misclassified; one that is never broken
            gets the last iterate of the last restart.

    Raises:
        ValueError: If a setting is out of range; when called, if ``y`` has the wrong number of dimensions for the loss.
    """

    eps: Pixels = 8 / 255
    step_size: Pixels = 2 / 255
    steps: int = 10
    restarts: int = 1
    start: Start = field(default_factory=UniformStart)
    norm: Norm = "linf"
    loss: AttackLoss = "cross_entropy"
    targeted: bool = False
    early_stop: bool = False

    def __post_init__(self) -> None:
        check_choice("norm", self.norm, get_args(Norm))
        check_choice("loss", self.loss, get_args(AttackLoss))
        check_count("steps", self.steps, 0)
        check_count("restarts", self.restarts, 1)
        for name in ("eps", "step_size"):
            object.__setattr__(self, name, pixel_length(name, getattr(self, name), self.norm))
        if self.norm == "l2" and 0 < self.steps * self.step_size < self.eps:
            _say_short(self.steps * self.step_size, self.eps)

    @property
    def aim(self) -> Aim:
        if self.loss == "kl":
            return "logits"
        return "targets" if self.targeted else "labels"

    @property
    def title(self) -> str:
        name = f"PGD-{self.steps}" if type(self) is PGD else super().title
        starts = [f"{self.restarts} starts"] if self.restarts > 1 else []
        loss = [] if self.loss == "cross_entropy" else [self.loss]
        return ", ".join([name, *starts, *loss])

    @property
    def key(self) -> str:
        name = f"pgd{self.steps}" if type(self) is PGD else super().key
        starts = f"x{self.restarts}" if self.restarts > 1 else ""
        return name + starts + ("" if self.loss == "cross_entropy" else f"_{self.loss}")

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor, epoch: int) -> Tensor:
        if self.eps == 0 or len(x) == 0:
            return x.clone()
        if not self.early_stop:
            return self._worst_of_restarts(model, x, y, index, epoch)
        state = AttackState(None, x, y, model, index=index, epoch=epoch, is_fooled=self.is_fooled)
        self.run(state)
        return state.x_adv

    def passes(self, classes: int) -> PassCount:
        return GRADIENT.times(self.steps * self.restarts)

    def run(self, state: AttackState) -> None:
        if not self.early_stop or self.eps == 0:
            super().run(state)
            return
        for restart in range(self.restarts):
            left = state.survivors()
            if len(left):
                self._climb_watched(state, left, restart)

    def objective(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the quantity that the attack maximizes, per example: logits (N, C) and ``y`` to (N,)."""
        loss = _LOSSES[self.loss](logits, y)
        return -loss if self.targeted else loss

    def first_iterate(self, x: Tensor, index: Tensor, epoch: int, restart: int) -> Tensor:
        """Return the starting point of a restart: a new tensor like ``x``, inside the ball and [0, 1]."""
        return self.project(x + self.start(x, self.eps, self.norm, index, epoch, restart), x)

    def gradient(self, model: nn.Module, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient of the objective at ``x_adv``, whose memory may be shared, and the logits there."""
        x_adv = x_adv.detach().requires_grad_()
        logits = losses.at_least_float32(model(x_adv))
        # the sum, not the mean: an example's gradient must not shrink with the batch around it
        (gradient,) = torch.autograd.grad(self.objective(logits, y).sum(), x_adv)
        return gradient, logits.detach()

    def ascend(self, x_adv: Tensor, gradient: Tensor) -> Tensor:
        """Take one step; ``x_adv`` may be modified in place."""
        direction = gradient.sign() if self.norm == "linf" else _unit(finite(gradient))
        return x_adv.add_(direction, alpha=self.step_size)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Project ``x_adv`` onto the ball around ``x`` and [0, 1]; ``x_adv`` may be modified in place."""
        if self.norm == "linf":
            return x_adv.clamp_(x - self.eps, x + self.eps).clamp_(0, 1)
        delta = x_adv.sub_(x)
        shrink = self.eps / _l2_norm(delta).clamp_min_(max(self.eps, torch.finfo(x.dtype).tiny))
        # x lies in the box, so clamping to the box shortens delta in every pixel and cannot leave the ball
        return delta.mul_(shrink).add_(x).clamp_(0, 1)

    def is_fooled(self, logits: Tensor, y: Tensor) -> Tensor:
        reached = losses.prediction(logits) == (y.argmax(1) if self.loss == "kl" else y)
        return reached if self.targeted else ~reached

    def _worst_of_restarts(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor, epoch: int) -> Tensor:
        worst = self._climb(model, x, y, self.first_iterate(x, index, epoch, 0))
        if self.restarts == 1:
            return worst
        fooled, objective = self._look(model, worst, y)
        for restart in range(1, self.restarts):
            x_adv = self._climb(model, x, y, self.first_iterate(x, index, epoch, restart))
            new_fooled, new_objective = self._look(model, x_adv, y)
            worse = torch.where(new_fooled == fooled, new_objective > objective, new_fooled)
            worst[worse] = x_adv[worse]
            fooled, objective = fooled | new_fooled, torch.where(worse, new_objective, objective)
        return worst

    def _climb(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
        steps = _Steps(self, self.steps, watched=False)
        return replayed(model, steps, x, y, x_adv)[0]

    def _look(self, model: nn.Module, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            logits = losses.at_least_float32(model(x_adv))
            return self.is_fooled(logits, y), self.objective(logits, y)

    def _climb_watched(self, state: AttackState, left: Tensor, restart: int) -> None:
        """Run one restart on some examples, each of which leaves at the first iterate that breaks it."""
        x, y = state.x[left], state.y[left]
        x_adv = self.first_iterate(x, state.index[left], state.epoch, restart)
        for done in range(0, self.steps, state.patience):
            steps = _Steps(self, min(state.patience, self.steps - done), watched=True)
            # too few steps to be worth recording
            x_adv, fooled, margins, iterates = in_parts(state.search, steps, x, y, x_adv)
            kept = None
            for step in range(steps.count):
                kept = state.record_success(left, fooled[:, step], iterates[:, step], margin=margins[:, step])
            kept = state.judge() if kept is None else kept
            state.on_step(GRADIENT.times(steps.count).work)
            if kept is not None:
                left, x, y, x_adv = (tensor[kept] for tensor in (left, x, y, x_adv))
                if len(left) == 0:
                    return
        state.x_adv[left] = x_adv
        if not state.trusting or restart + 1 < self.restarts:  # else the caller's own pass judges the last iterate
            state.try_out(left, x_adv)


@dataclass(frozen=True)
class _Steps:
    """Some steps of PGD.

    Args:
        attack: The attack that takes the steps.
        count: Number of steps.
        watched: Whether to return, besides the last iterate, for each iterate before a step: whether it was
            misclassified, (N, count), its margin, (N, count), and the iterate itself, (N, count, C, H, W).
    """

    attack: PGD
    count: int
    watched: bool

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> tuple[Tensor, ...]:
        attack = self.attack
        x_adv = x_adv.clone()
        fooled, margins, iterates = [], [], []
        labels = y if y.ndim == 1 else y.argmax(1)
        for _ in range(self.count):
            gradient, logits = attack.gradient(model, x_adv, y)
            if self.watched:
                fooled.append(attack.is_fooled(logits, y))
                margins.append(margin_of(logits, labels))
                iterates.append(x_adv)
                x_adv = x_adv.clone()
            x_adv = attack.project(attack.ascend(x_adv, gradient), x)
        seen = (fooled, margins, iterates) if self.watched else ()
        return x_adv, *(torch.stack(each, 1) for each in seen)


@cache
def _say_short(way: float, eps: float) -> None:
    """Tell once of an attack that hardly moves, so that what it leaves looks robust."""
    logging.getLogger("qra").warning(
        "the steps of PGD add up to only %.3g, but eps is %.3g (L2): give it a larger step_size, such as eps / 4",
        way,
        eps,
    )


def _l2_norm(v: Tensor) -> Tensor:
    """Return the L2 norm of each example, (N, ...) to (N, 1, ...)."""
    norm: Tensor = torch.linalg.vector_norm(v, dim=tuple(range(1, v.ndim)), keepdim=True)
    return norm


def _unit(v: Tensor) -> Tensor:
    """Scale each example to L2 norm 1; zero stays zero."""
    # first scale the largest entry to 1, since the squares of a confident network's gradients would underflow
    largest = v.abs().amax(dim=tuple(range(1, v.ndim)), keepdim=True)
    v = v / largest.clamp_min_(torch.finfo(v.dtype).tiny)
    return v / _l2_norm(v).clamp_min_(1)
