"""Robust accuracy of a network under an attack."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from qra.attacks import PGD, Attack
from qra.losses import prediction
from qra.parts import Parts
from qra.precision import float32
from qra.types import Batch


@torch.no_grad()
def correct(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Whether the network in eval mode is right, in float32: (N, C, H, W) and (N,) to bool (N,)."""
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
    """Whether each example stays right under an attack: the first result of :func:`attacked`, bool (N,)."""
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
    """Attack the examples that are right to begin with.

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
        Whether each example stays right, bool (N,), and the images that the attack ended with, (N, C, H, W): clean ones
        for the examples that are wrong anyway.
    """
    right = correct(network, x, y)
    x_adv = x.clone()
    left = right.nonzero().squeeze(1)
    if len(left):
        with float32(x.device):
            x_adv[left] = attack(attack_network or network, x[left], y[left], index=indices[left])
        right[left] = correct(network, x_adv[left], y[left])
    return right, x_adv


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
    network: nn.Module, attack: PGD, batch: Batch, right: Tensor, x_adv: Tensor, attack_network: nn.Module
) -> Tensor:
    """Whether each example stays right once adversarial images are rounded by :func:`to_bytes`.

    An attack that stops at the first success ends so near the boundary that rounding often takes the success back; for
    those examples it goes on to its last step. One forward pass, and the attack on these few.

    Args:
        network: In eval mode.
        attack: L-inf.
        batch: Float images, labels and data set indices.
        right: What :func:`attacked` found, bool (N,).
        x_adv: The images it ended with, (N, C, H, W).
        attack_network: As there.

    Returns:
        bool, (N,).
    """
    kept = correct(network, to_bytes(x_adv, batch.x, attack.eps), batch.y)
    taken_back = (kept & ~right).nonzero().squeeze(1)
    if len(taken_back) and attack.early_stop and attack.eps * 255 >= 1:
        x, y, indices = (part[taken_back] for part in batch)
        whole = dataclasses.replace(attack, early_stop=False)
        _, x_adv = attacked(network, whole, x, y, indices, attack_network=attack_network)
        kept[taken_back] = correct(network, to_bytes(x_adv, x, attack.eps), y)
    return kept
