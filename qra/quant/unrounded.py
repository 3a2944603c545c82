"""What a network would be without the rounding of its activations: a source of adversarial examples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qra.quant.grid import Grid
from qra.quant.layers import ActivationFakeQuantizer
from qra.quant.network import activation_quantizers
from qra.quant.trace import copied


class Clip(nn.Module):
    """Activations between the smallest and the largest value of a grid, which are not rounded.

    Args:
        grid: What activations were rounded to.
    """

    low: Tensor
    high: Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        codes = torch.tensor(list(grid.levels), device=grid.scale.device)
        values = grid.dequantize(codes.view(-1, *[1] * grid.scale.ndim))
        self.register_buffer("low", values.amin(0))
        self.register_buffer("high", values.amax(0))

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)


def check_unrounded(network: nn.Module) -> None:
    """Refuse a network with a quantizer that does not say between which values it rounds, calibrated or not.

    Raises:
        ValueError: With the name of the quantizer.
    """
    for name, quantizer in _rounding(network).items():
        if not quantizer.settings.has_grid:
            reason = quantizer.settings.no_grid()
            raise ValueError(f"the unrounded network is not available, for {name}: {reason}")


def unrounded(network: nn.Module) -> nn.Module | None:
    """The network with quantized weights and clip levels as they are, whose activations are clipped and not rounded.

    Args:
        network: Quantized and calibrated; it is not changed.

    Returns:
        A copy; None if the network rounds no activations, so that it would be the same function.

    Raises:
        ValueError: If a quantizer does not say between which values it rounds, with its name.
    """
    check_unrounded(network)
    clips = {name: Clip(quantizer.grid()) for name, quantizer in _rounding(network).items()}
    if not clips:
        return None
    copy = copied(network)
    device = next((parameter.device for parameter in network.parameters()), None)
    for name, clip in clips.items():
        copy.set_submodule(name, clip.train(network.training).to(device))  # calibrated limits are numbers, on no device
    return copy


def _rounding(network: nn.Module) -> dict[str, ActivationFakeQuantizer]:
    return {name: quantizer for name, quantizer in activation_quantizers(network).items() if quantizer.enabled}
