"""Other bit widths for a network that was trained through quantization, without training."""

from __future__ import annotations

import torch
from torch import nn

from qra.quant.convert import convert, revert
from qra.quant.layers import ActivationFakeQuantizer
from qra.quant.network import activation_quantizers, fake_quantizers
from qra.quant.ranges import Range
from qra.quant.scheme import QuantScheme


def requantize(network: nn.Module, scheme: QuantScheme) -> None:
    """Quantize the float weights that a network was trained with to other bit widths, in place.

    Activations keep the range that they were trained or calibrated to. Steps of weights start from the weights.

    Args:
        network: Trained through quantization; not quantized after training, which leaves no float weights.
        scheme: The same quantizers as the network's, with other bits.

    Raises:
        ValueError: If the network is float or has fixed weights, or an activation's quantizer is of another kind.
    """
    if not fake_quantizers(network):
        raise ValueError(
            "the network is float: bits can be changed only where a network was trained through quantization"
        )
    before = activation_quantizers(network)
    revert(network)
    convert(network, scheme)
    for name, quantizer in activation_quantizers(network).items():
        if name not in before:
            raise ValueError(
                f"{name} was not quantized in training: leave its activations float, by an override to A32"
            )
        _take_over(quantizer, before[name], name)


@torch.no_grad()
def _take_over(new: ActivationFakeQuantizer, old: ActivationFakeQuantizer, name: str) -> None:
    if type(new.settings) is not type(old.settings):
        kinds = type(old.settings).__name__, type(new.settings).__name__
        raise ValueError(f"{name} was trained with {kinds[0]}, which {kinds[1]} cannot replace without training")
    state = {key: float(value) for key, value in old.state_dict().items()}
    if new.bit_width != old.bit_width and new.settings.state_depends_on_bits:
        grid = old.grid()
        low, high = (float(grid.dequantize(torch.tensor(end))) for end in grid.ends)
        state = new.settings.from_range(Range(low, high), new.bit_width)
    new.set_state(state)
