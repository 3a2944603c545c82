"""Robust accuracy of a network under an attack."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from qra.attacks import PGD, Attack, AttackState, EvaluationAttack
from qra.attacks.base import untouched
from qra.losses import prediction
from qra.parts import Parts
from qra.precision import float32
from qra.types import Batch


@torch.no_grad()
def is_correct(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Whether the network in eval mode is correct, in float32: (N, C, H, W) and (N,) to bool (N,)."""
    with float32(x.device):
        (logits,) = Parts()(lambda part: (network(part),), x)
    return prediction(logits) == y


def robust(
    network: nn.Module,
    attack: Attack,
    x: Tensor,
    y: Tensor,
    indices: Tensor,
    *,
    attack_network: nn.Module | None = None,
) -> Tensor:
    """Whether each example stays correct under an attack: the first result of :func:`attacked`, bool (N,)."""
    return attacked(network, attack, x, y, indices, attack_network=attack_network)[0]


def attacked(
    network: nn.Module,
    attack: Attack,
    x: Tensor,
    y: Tensor,
    indices: Tensor,
    *,
    attack_network: nn.Module | None = None,
) -> tuple[Tensor, Tensor]:
    """Attack the examples that are correct to begin with.

    What the attack finds counts only if ``network`` itself gets it wrong.

    Args:
        network: In eval mode.
        attack: Use one with ``early_stop``, so that an example counts as broken at any iterate.
        x: Images in [0, 1], (N, C, H, W).
        y: Labels, (N,).
        indices: Positions in the data set, (N,); they choose the start noise.
        attack_network: What the attack sees: the same function, made for gradients (see ``qra.quant.freeze``), or
            another network, whose adversarial examples are tried on ``network``. ``network`` if not given.

    Returns:
        Whether each example stays correct, bool (N,), and the images that the attack ended with, (N, C, H, W): clean
        ones for the examples that are wrong anyway.
    """
    target = network if attack_network is None else attack_network
    if isinstance(attack, EvaluationAttack):
        return _run(network, attack, x, y, target)
    correct = is_correct(network, x, y)
    x_adv = x.clone()
    left = correct.nonzero().squeeze(1)
    if len(left):
        with float32(x.device):
            x_adv[left] = attack(target, x[left], y[left], index=indices[left])
        correct[left] = is_correct(network, x_adv[left], y[left])
        if getattr(attack, "early_stop", False) and target is not network:
            _go_on(network, attack, target, Batch(x, y, indices), correct, x_adv)
    return correct, x_adv


def _run(
    network: nn.Module, attack: EvaluationAttack, x: Tensor, y: Tensor, target: nn.Module
) -> tuple[Tensor, Tensor]:
    """What :func:`attacked` returns, for an attack that judges on the network by itself."""
    with float32(x.device), untouched(network), untouched(target):
        state = AttackState(network, x.clone(), y.clone(), target)
        attack.run(state)
    return ~state.broken, state.x_adv


def _go_on(network: nn.Module, attack: Attack, target: nn.Module, batch: Batch, correct: Tensor, x_adv: Tensor) -> None:
    """Attack on, in place, where an attack stopped at an image that fools ``target`` but not the network.

    It is tried again in float32, if ``target`` searches in something faster, and at last without a stop.
    """
    whole = dataclasses.replace(attack, early_stop=False)  # type: ignore[type-var]
    stopped = correct & ~is_correct(target, x_adv, batch.y)
    with _in_float32(target) as was_faster:
        for attempt in (attack, whole) if was_faster else (whole,):
            left = stopped.nonzero().squeeze(1)
            if len(left) == 0:
                return
            x, y, indices = (part[left] for part in batch)
            with float32(x.device):
                x_adv[left] = attempt(target, x, y, index=indices)
            correct[left] = is_correct(network, x_adv[left], y)
            stopped[left] = correct[left] & ~is_correct(target, x_adv[left], y)


@contextmanager
def _in_float32(target: nn.Module) -> Iterator[bool]:
    """Let an attack-time copy search in float32; whether it was to search in something faster."""
    precision = getattr(target, "precision", None)
    if precision in (None, "float32"):
        yield False
        return
    vars(target)["precision"] = "float32"
    try:
        yield True
    finally:
        vars(target)["precision"] = precision


def to_bytes(x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
    """Round adversarial images to what a device receives: the nearest bytes that lie in the L-inf ball.

    Args:
        x_adv: Images in [0, 1], (N, C, H, W).
        x: The clean images, which are bytes divided by 255.
        eps: Radius of the ball, in pixel units; 8/255 is 8 levels, and less than one level leaves the clean images.

    Returns:
        Pixels that are multiples of 1/255, no further than ``eps`` from ``x``.
    """
    levels = torch.full((), 255.0, device=x.device, dtype=x.dtype)
    radius = math.floor(eps * 255 + 1e-6)
    clean = (x * levels).round_()
    return (x_adv * levels).round_().clamp_(clean - radius, clean + radius) / levels


def correct_as_bytes(
    network: nn.Module, attack: PGD, batch: Batch, correct: Tensor, x_adv: Tensor, attack_network: nn.Module
) -> Tensor:
    """Whether each example stays correct once adversarial images are rounded by :func:`to_bytes`.

    An attack that stops at the first success ends so near the boundary that rounding often takes the success back; for
    those examples it goes on to its last step. One forward pass, and the attack on these few.

    Args:
        network: In eval mode.
        attack: L-inf.
        batch: Float images, labels and data set indices.
        correct: What :func:`attacked` found, bool (N,).
        x_adv: The images it ended with, (N, C, H, W).
        attack_network: As there.

    Returns:
        bool, (N,).
    """
    kept = is_correct(network, to_bytes(x_adv, batch.x, attack.eps), batch.y)
    taken_back = (kept & ~correct).nonzero().squeeze(1)
    if len(taken_back) and attack.early_stop and attack.eps * 255 >= 1:
        x, y, indices = (part[taken_back] for part in batch)
        whole = dataclasses.replace(attack, early_stop=False)
        _, x_adv = attacked(network, whole, x, y, indices, attack_network=attack_network)
        kept[taken_back] = is_correct(network, to_bytes(x_adv, x, attack.eps), y)
    return kept
