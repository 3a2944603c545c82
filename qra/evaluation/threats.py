"""What an attacker differentiates when it attacks a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from qra.quant import FrozenNetwork, freeze, gradient_mode
from qra.quant.network import activation_quantizers

Threat = Literal["ste", "ste_soft", "hard", "surrogate", "square"]
"""``ste``, ``ste_soft`` and ``hard`` are gradient modes of the network itself, see :func:`qra.quant.gradient_mode`;
``surrogate`` is another network, whose adversarial examples are transferred; ``square`` is an attack that needs no
gradients."""


def attack_networks(
    network: nn.Module, threats: Sequence[Threat], surrogate: nn.Module | None = None
) -> dict[Threat, FrozenNetwork]:
    """The network that is differentiated under each threat, made for gradients.

    Args:
        network: In eval mode. If it rounds no activations, all gradient modes share one copy.
        threats: Each once.
        surrogate: In eval mode, on the device of ``network``; for the threat ``surrogate``.
    """
    rounds = bool(activation_quantizers(network))
    made: dict[Threat, FrozenNetwork] = {}
    for threat in threats:
        if threat == "surrogate":
            assert surrogate is not None
            made[threat] = freeze(surrogate)
            continue
        own = [target for other, target in made.items() if other != "surrogate"]
        if own and (threat == "square" or not rounds):
            made[threat] = own[0]
        else:
            with gradient_mode(network, "ste" if threat == "square" else threat):
                made[threat] = freeze(network)
    return made


@torch.no_grad()
def check_classes(network: nn.Module, surrogate: nn.Module, x: torch.Tensor) -> None:
    """Refuse a surrogate that tells other classes apart.

    Raises:
        ValueError: If the two give different numbers of logits for ``x``, (N, C, H, W).
    """
    found, expected = surrogate(x).shape[1], network(x).shape[1]
    if found != expected:
        raise ValueError(f"the surrogate tells {found} classes apart, the network {expected}: it is of other data")
