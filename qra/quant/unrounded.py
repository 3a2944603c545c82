"""The unrounded network, with activations that are clipped but not rounded: a source of adversarial images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qra.quant.grid import Grid
from qra.quant.layers import ActivationFakeQuantizer
from qra.quant.network import activation_quantizers
from qra.quant.trace import copied


class Clip(nn.Module):
    """Clip activations to the smallest and largest value of a grid, without rounding.

    Args:
        grid: Grid of the quantizer that it replaces.
    """

    low: Tensor
    high: Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        codes = torch.tensor(list(grid.levels), device=grid.scale.device)
        values = grid.dequantize(codes.view(-1, *[1] * grid.scale.ndim))
        self.register_buffer("low", values.amin(0))
        self.register_buffer("high", values.amax(0))

    def forward(self, input: Tensor) -> Tensor:
        return input.clamp(self.low, self.high)


def check_unrounded(network: nn.Module) -> None:
    """Reject a network with a quantizer that defines no grid. The network need not be calibrated.

    Raises:
        ValueError: If there is one. The message names the quantizer.
    """
    for name, quantizer in _rounding(network).items():
        if not quantizer.settings.has_grid:
            reason = quantizer.settings.no_grid()
            raise ValueError(f"the unrounded network is not available: at {name}, {reason}")


def unrounded(network: nn.Module) -> nn.Module | None:
    """Return a copy of a network with the same quantized weights and clip levels whose activations are not rounded.

    Args:
        network: Quantized and calibrated; it is not changed.

    Returns:
        The copy; None if the network does not round activations, so that it would be the same function.

    Raises:
        ValueError: If a quantizer defines no grid. The message names it.
    """
    check_unrounded(network)
    clips = {name: Clip(quantizer.grid()) for name, quantizer in _rounding(network).items()}
    if not clips:
        return None
    copy = copied(network)
    device = next((parameter.device for parameter in network.parameters()), None)
    for name, clip in clips.items():
        copy.set_submodule(name, clip.train(network.training).to(device))  # calibrated limits are CPU tensors
    return copy


def _rounding(network: nn.Module) -> dict[str, ActivationFakeQuantizer]:
    return {name: quantizer for name, quantizer in activation_quantizers(network).items() if quantizer.enabled}
