"""The networks that an attacker differentiates to attack a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from qra.quant import FrozenNetwork, freeze, gradient_mode
from qra.quant.network import activation_quantizers

GradientSource = Literal["ste", "ste_soft", "hard", "surrogate", "square"]
"""Source of gradients.

``ste``, ``ste_soft`` and ``hard`` are gradient modes of the network itself, see :func:`qra.quant.gradient_mode`;
``surrogate`` is another network, whose adversarial images are transferred; ``square`` is an attack that needs no
gradients.
"""


def attack_networks(
    network: nn.Module, gradients: Sequence[GradientSource], surrogate: nn.Module | None = None
) -> dict[GradientSource, FrozenNetwork]:
    """Return the attack-time copy to differentiate for each source of gradients.

    Args:
        network: The network, in eval mode. If it rounds no activations, all gradient modes share one copy.
        gradients: Sources of gradients, without repetitions.
        surrogate: Network for the source ``surrogate``, in eval mode, on the device of ``network``.
    """
    rounds = bool(activation_quantizers(network))
    made: dict[GradientSource, FrozenNetwork] = {}
    for gradient in gradients:
        if gradient == "surrogate":
            assert surrogate is not None
            made[gradient] = freeze(surrogate)
            continue
        own = [target for other, target in made.items() if other != "surrogate"]
        if own and (gradient == "square" or not rounds):
            made[gradient] = own[0]
        else:
            with gradient_mode(network, "ste" if gradient == "square" else gradient):
                made[gradient] = freeze(network)
    return made


@torch.no_grad()
def check_classes(network: nn.Module, surrogate: nn.Module, x: torch.Tensor) -> None:
    """Check that a surrogate has as many classes as the network.

    Raises:
        ValueError: If the two return different numbers of logits for ``x``, (N, C, H, W).
    """
    found, expected = surrogate(x).shape[1], network(x).shape[1]
    if found != expected:
        raise ValueError(
            f"the surrogate has {found} classes, but the network has {expected}: use a surrogate for the same data"
        )
