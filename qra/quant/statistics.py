"""Quantization errors, site by site."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from qra.quant.layers import ActivationFakeQuantizer, quantized_weight
from qra.quant.network import activation_quantizers, evaluating, quant_layers, seeing


class SiteStatistics(NamedTuple):
    """The effect of quantization on one tensor.

    Attributes:
        values: The float values, flat.
        quantized: The same values quantized, flat, at the scale of ``values``.
        clipped: Fraction of the values that are clipped, so that they get no gradient; 0 for weights.
    """

    values: Tensor
    quantized: Tensor
    clipped: float

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio in decibels: 10 log10 of the energy of the values over that of their errors."""
        signal = self.values.double().square().sum()
        noise = (self.values.double() - self.quantized.double()).square().sum()
        return float(10 * torch.log10(signal / noise))


@torch.no_grad()
def weight_statistics(network: nn.Module) -> dict[str, SiteStatistics]:
    """Return statistics of a network's quantized weights, by layer name.

    Some quantizers change the scale of weights, which batch normalization undoes. Quantized weights are therefore first
    rescaled for the least squared error.
    """
    found = {}
    for name, layer in quant_layers(network).items():
        if layer.weight_quantizer is not None:
            values, quantized = layer.weight.flatten(), quantized_weight(layer).flatten()
            scale = values.dot(quantized) / quantized.square().sum().clamp_min(torch.finfo(values.dtype).tiny)
            found[name] = SiteStatistics(values.clone(), quantized * scale, 0.0)
    return found


def activation_statistics(network: nn.Module, x: Tensor) -> dict[str, SiteStatistics]:
    """Return statistics of a network's quantized activations, by quantizer name.

    Args:
        network: A quantized network; it is run in eval mode.
        x: Images in [0, 1], (N, C, H, W), on the device of the network.
    """
    found: dict[str, SiteStatistics] = {}

    def look(name: str, quantizer: ActivationFakeQuantizer, taken: Tensor, output: Tensor) -> None:
        with torch.enable_grad():
            values = taken.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(quantizer.forward(values).sum(), values)
        values = quantizer.float_activation(values).detach()
        clipped = ((gradient == 0) & (values != 0)).float().mean()
        found[name] = SiteStatistics(values.flatten(), output.flatten(), float(clipped))

    with evaluating(network), seeing(activation_quantizers(network), look):
        network(x)
    return found
