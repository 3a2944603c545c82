"""Fast minimum-norm attack (Pintor et al. 2021, arXiv 2102.12827): the smallest perturbation of each example."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qra.attacks.base import EvaluationAttack, replayed
from qra.attacks.pass_count import PassCount
from qra.attacks.state import AttackState, finite, length, margin_of, unit
from qra.checks import check_attack, check_in
from qra.types import Norm, Pixels

_LAST_STEP = 0.01
"""The last step, as a share of the first."""
_LAST_GAMMA = 0.001
_BEYOND = 1e-4
"""How far a step goes beyond the estimated boundary, as a share of its distance from the image."""
_STEP = PassCount(2, 1)  # a gradient, and a forward pass to judge


@dataclass(frozen=True)
class FMN(EvaluationAttack):
    """Gradient steps in a ball that shrinks where the network is wrong and grows where it is right.

    Pintor et al. 2021, algorithm 1, untargeted and without an initial image. It differs in two ways while no
    adversarial image is known. The distance to the boundary is added to the ball's radius, not to the length of the
    perturbation, which is shorter where pixels are clipped at 0 or 1. The ball also grows by slightly more than that
    distance. Under the paper's rule, steps can stall before or on the boundary, in L2 for many examples.

    Each iterate is judged by the network itself, and the nearest misclassified one is kept. ``RadiusEvaluation``
    records its distance, whatever ``eps``; everywhere else, an example is broken if that distance is at most ``eps``.

    Args:
        eps: Largest perturbation that counts, in pixel units.
        norm: Norm of the perturbation.
        steps: Number of steps.
        step_size: L2 length of the first step, in pixel units, whatever the norm; it decays to a hundredth of this.
        gamma: Relative change of the ball's radius in the first step; it decays to 0.001.

    Raises:
        ValueError: If a setting is out of range.
    """

    eps: Pixels = 8 / 255
    norm: Norm = "linf"
    steps: int = 200
    step_size: float = 1.0
    gamma: float = 0.05

    finds_nearest = True

    def __post_init__(self) -> None:
        check_in("step_size", self.step_size, "(0, inf)")
        check_in("gamma", self.gamma, "(0, 1)")
        check_attack(self, "steps")

    @property
    def title(self) -> str:
        return "FMN" if self.steps == 200 else f"FMN-{self.steps}"

    @property
    def key(self) -> str:
        return "fmn"

    def passes(self, classes: int) -> PassCount:
        return _STEP.times(self.steps)

    def run(self, state: AttackState) -> None:
        left = state.survivors()
        if len(left) == 0 or self.eps == 0:
            return
        x = state.x[left]
        nearest, distance = self._nearest(state, left, x)
        near = distance <= self.eps
        state.try_out(left[near], nearest[near])

    def _nearest(self, state: AttackState, positions: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest misclassified images, like ``x``, and their distances, (N,), infinite if there is none."""
        limit = largest_distance(x, self.norm)
        delta, nearest = torch.zeros_like(x), x
        eps, best = torch.zeros_like(limit), torch.full_like(limit, math.inf)
        for step in range(self.steps):
            state.on_step(_STEP.work)
            margin, gradient = replayed(state.search, _Margin(), x + delta, state.y[positions])
            images, wrong = state.try_only(positions, x + delta)
            wrong, distance = _like(wrong, x), length(images - x, self.norm)
            nearer = wrong & (distance < best)
            nearest, best = torch.where(nearer, images, nearest), torch.where(nearer, distance, best)
            boundary = eps + _like(margin.abs(), x) / _dual_length(gradient, self.norm)
            gamma = _annealed(self.gamma, _LAST_GAMMA, step / self.steps)
            outside = torch.where(best < math.inf, eps * (1 + gamma), boundary * (1 + _BEYOND))
            eps = torch.where(wrong, torch.minimum(eps * (1 - gamma), best), outside).minimum(limit)
            step_size = _annealed(self.step_size, self.step_size * _LAST_STEP, step / self.steps)
            delta = _project(delta + step_size * unit(gradient, "l2"), eps, self.norm)
            delta = (x + delta).clamp_(0, 1) - x
        return nearest, best.flatten()


@dataclass(frozen=True)
class _Margin:
    """Returns the margin of the label's logit, (N,), and the negative gradient of the margin, like ``x_adv``.

    Both are divided by the gradient's largest absolute entry, because the scale of logits is arbitrary.
    """

    def __call__(self, model: nn.Module, x_adv: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        x_adv = x_adv.detach().requires_grad_()
        logits = model(x_adv)
        margin = margin_of(logits, y)
        (gradient,) = torch.autograd.grad(-margin.sum(), x_adv)
        gradient = finite(gradient)
        largest = gradient.abs().flatten(1).amax(1).clamp(min=torch.finfo(gradient.dtype).tiny)
        return margin.detach() / largest, gradient / _like(largest, gradient)


def largest_distance(x: Tensor, norm: Norm) -> Tensor:
    """Return the distance of images to the farthest corner of the box [0, 1], (N, C, H, W) to (N, 1, 1, 1)."""
    return length(torch.maximum(x, 1 - x), norm)


def _like(values: Tensor, x: Tensor) -> Tensor:
    """Reshape one value per example, (N,), to broadcast with images, (N, 1, 1, 1)."""
    return values.view(-1, *[1] * (x.ndim - 1))


def _dual_length(gradient: Tensor, norm: Norm) -> Tensor:
    """Return the dual norm of a gradient, the steepest slope per unit of step length, (N, 1, 1, 1); never zero."""
    lengths = gradient.abs().flatten(1).sum(1) if norm == "linf" else gradient.flatten(1).norm(dim=1)
    return _like(lengths, gradient).clamp(min=torch.finfo(gradient.dtype).tiny)


def _annealed(first: float, last: float, done: float) -> float:
    """Return a value that decays from ``first`` to ``last`` along a half cosine, at the share ``done`` of the way."""
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2


def _project(delta: Tensor, eps: Tensor, norm: Norm) -> Tensor:
    if norm == "linf":
        return delta.maximum(-eps).minimum(eps)
    return delta * (eps / length(delta, "l2").clamp(min=1e-12)).clamp(max=1)
