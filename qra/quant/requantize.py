"""Change the bit widths of a network after quantization-aware training, without further training."""

from __future__ import annotations

import torch
from torch import nn

from qra.quant.convert import convert, revert
from qra.quant.layers import ActivationFakeQuantizer, FakeQuantizer
from qra.quant.network import fake_quantizers, is_fixed
from qra.quant.ranges import Range
from qra.quant.scheme import QuantScheme


def requantize(network: nn.Module, scheme: QuantScheme) -> None:
    """Quantize the float weights of a network after quantization-aware training to other bit widths, in place.

    Activations keep their trained or calibrated ranges. Learned values of weight quantizers are kept where the bit
    width stays the same, or where they do not depend on it, and otherwise are reinitialized from the weights.

    Args:
        network: A network after quantization-aware training. Post-training quantization leaves no float weights to
            start from.
        scheme: The quantizers of the network, with other bit widths.

    Raises:
        ValueError: If the network is float or has fixed weights, or an activation site was float or had another
            quantizer.
    """
    before = fake_quantizers(network)
    if not before or any(map(is_fixed, before.values())):
        kind = "was quantized after training and has no float weights" if before else "is float"
        raise ValueError(f"the network {kind}: other bit widths need one from quantization-aware training")
    revert(network)
    convert(network, scheme)
    for name, quantizer in fake_quantizers(network).items():
        _take_over(quantizer, before.get(name), name)


@torch.no_grad()
def _take_over(new: FakeQuantizer, old: FakeQuantizer | None, name: str) -> None:
    same = old is not None and type(new.settings) is type(old.settings)
    if old is not None and same and (new.bit_width == old.bit_width or not new.settings.state_depends_on_bits):
        new.load_state_dict(old.state_dict())
    elif isinstance(new, ActivationFakeQuantizer):
        if not isinstance(old, ActivationFakeQuantizer):
            raise ValueError(f"the activations of {name} were float in training: keep them float by an override to A32")
        if not same:
            kinds = type(old.settings).__name__, type(new.settings).__name__
            raise ValueError(f"{name} was trained with {kinds[0]}, which {kinds[1]} cannot replace without training")
        grid = old.grid()
        low, high = (float(grid.dequantize(torch.tensor(end))) for end in grid.ends)
        new.set_state(new.settings.from_range(Range(low, high), new.bit_width))
