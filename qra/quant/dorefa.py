"""DoReFa weights (Zhou et al. 2016, arXiv 1606.06160, equation 9)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from qra.quant.rounding import at_least_float32, check_bit_width, straight_through

DoReFaGradient = Literal["through_tanh", "identity"]


def dorefa_weight(
    w: Tensor, bit_width: int, gradient: DoReFaGradient = "through_tanh", *, scale_preserving: bool = False
) -> Tensor:
    """Quantize ``tanh(w) / max|tanh(w)|`` to the ``2**bit_width`` odd multiples of ``1 / (2**bit_width - 1)``.

    Zero is no level, and the largest result is 1 whatever the size of ``w``: after a batch normalization its statistics
    must be estimated again, and without one (the last layer) ``scale_preserving`` keeps logits in proportion.

    Args:
        w: Weights of one layer, any shape.
        bit_width: 2 to 8.
        gradient: ``through_tanh``, the definition: straight through the rounding alone, the maximum held fixed, so
            ``(1 - tanh(w)^2) / max|tanh(w)|``. ``identity``: 1, as some implementations have it.
        scale_preserving: Multiply the result by ``max|tanh(w)|``, held fixed.

    Raises:
        ValueError: If ``bit_width`` is not in 2..8.
    """
    check_bit_width(bit_width)
    w = at_least_float32(w)
    levels = 2**bit_width - 1
    largest = w.detach().abs().max().tanh_().clamp_min_(torch.finfo(w.dtype).tiny)
    normalized = w.tanh() / largest
    codes = normalized.detach().add(1).mul_(levels / 2).round_()
    carrier = w if gradient == "identity" else normalized
    quantized = straight_through(carrier, codes.mul_(2).sub_(levels).div_(levels))
    return quantized * largest if scale_preserving else quantized
