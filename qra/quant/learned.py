"""The learned values of a network's quantizers, collected once for many training steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qra.quant.network import activation_quantizers, fake_quantizers


class LearnedValues:
    """Clip levels, steps and offsets of a network's quantizers.

    Args:
        network: The network, with its current quantizers.
    """

    def __init__(self, network: nn.Module) -> None:
        self._by_decay: dict[float, list[Tensor]] = {}
        self._by_least: dict[float, list[Tensor]] = {}
        for activation in activation_quantizers(network).values():
            if activation.settings.decay > 0:
                self._by_decay.setdefault(activation.settings.decay, []).extend(activation.parameters())
        for quantizer in fake_quantizers(network).values():
            positive = [v for name, v in quantizer.named_parameters() if name not in quantizer.settings.signed]
            self._by_least.setdefault(quantizer.settings.smallest, []).extend(positive)

    def decay(self) -> Tensor | float:
        """Return the loss term that keeps values small: the sum of squares times the decay, summed over decays."""
        terms = [
            decay * torch.cat([value.flatten() for value in values]).square().sum()
            for decay, values in self._by_decay.items()
            if values
        ]
        return torch.stack(terms).sum() if terms else 0.0

    @torch.no_grad()
    def keep_positive(self) -> None:
        """Clamp positive values from below, where an optimizer has moved them close to zero or beyond."""
        for least, values in self._by_least.items():
            if values:
                torch._foreach_clamp_min_(values, least)
