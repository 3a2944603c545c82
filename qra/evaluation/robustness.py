"""Robust accuracy of a network under an attack."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qra.attacks import Attack


@torch.no_grad()
def correct(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Whether the network in eval mode is right, in float32: (N, C, H, W) and (N,) to bool (N,)."""
    with torch.autocast(x.device.type, enabled=False):
        logits: Tensor = network(x)
    return logits.argmax(1) == y


def robust(
    network: nn.Module,
    attack: Attack,
    x: Tensor,
    y: Tensor,
    indices: Tensor,
    *,
    attack_network: nn.Module | None = None,
) -> Tensor:
    """Whether each example stays right under an attack.

    Only examples that are right to begin with are attacked, and what the attack finds counts only if ``network``
    itself gets it wrong.

    Args:
        network: In eval mode.
        attack: Use one with ``early_stop``, so that an example counts as broken at any iterate.
        x: Images in [0, 1], (N, C, H, W).
        y: Labels, (N,).
        indices: Positions in the data set, (N,); they choose the start noise.
        attack_network: The same function, made for gradients (see ``qra.quant.freeze``); ``network`` if not given.

    Returns:
        bool, (N,).
    """
    right = correct(network, x, y)
    left = right.nonzero().squeeze(1)
    if len(left):
        with torch.autocast(x.device.type, enabled=False):
            x_adv = attack(attack_network or network, x[left], y[left], index=indices[left])
        right[left] = correct(network, x_adv, y[left])
    return right
