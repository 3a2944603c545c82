"""DoReFa weights (Zhou et al. 2016, arXiv 1606.06160, equation 9)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from qra.precision import at_least_float32
from qra.quant.grid import WeightGrid, most_exact, one_grid
from qra.quant.rounding import check_bit_width, straight_through

DoReFaGradient = Literal["through_tanh", "identity"]
"""How DoReFa's tanh is differentiated: exactly, as in the definition, or as the identity."""


def dorefa_weight(
    w: Tensor, bit_width: int, gradient: DoReFaGradient = "through_tanh", *, scale_preserving: bool = False
) -> Tensor:
    """Quantize ``tanh(w) / max|tanh(w)|`` to the ``2**bit_width`` odd multiples of ``1 / (2**bit_width - 1)``.

    Zero is not a level, and the largest magnitude of the result is 1 whatever the scale of ``w``. The statistics of a
    batch normalization after the layer must therefore be re-estimated; where there is none (the last layer),
    ``scale_preserving`` keeps the logits in proportion.

    Args:
        w: Weights of one layer, any shape.
        bit_width: 2 to 8.
        gradient: ``through_tanh`` follows the definition: straight through the rounding only, with the maximum held
            constant, so ``(1 - tanh(w)^2) / max|tanh(w)|``. ``identity`` is 1, as in some implementations.
        scale_preserving: Whether to multiply the result by ``max|tanh(w)|``, held constant.

    Raises:
        ValueError: If ``bit_width`` is not in 2..8.
    """
    check_bit_width(bit_width)
    w = at_least_float32(w)
    largest = _largest(w)
    normalized = w.tanh() / largest
    quantized = _grid(normalized.detach(), largest, bit_width, scale_preserving).dequantize(w.dtype)
    carrier = w if gradient == "identity" else normalized
    return straight_through(carrier * largest if scale_preserving else carrier, quantized)


def dorefa_grid(w: Tensor, bit_width: int, *, scale_preserving: bool = False) -> WeightGrid:
    """Return the grid of :func:`dorefa_weight`, with the same arguments: odd codes from -(2^b - 1) to 2^b - 1."""
    check_bit_width(bit_width)
    w = at_least_float32(w.detach())
    largest = _largest(w)
    return _grid(w.tanh() / largest, largest, bit_width, scale_preserving)


def _largest(w: Tensor) -> Tensor:
    return w.detach().abs().max().tanh_().clamp_min_(torch.finfo(w.dtype).tiny)


def _grid(normalized: Tensor, largest: Tensor, bit_width: int, scale_preserving: bool) -> WeightGrid:
    levels = 2**bit_width - 1
    codes = normalized.add(1).mul_(levels / 2).round_().mul_(2).sub_(levels)
    # The definition divides codes by the number of levels; multiplying gives the same if the scale is more precise.
    exact = most_exact(largest.device)
    scale = largest.to(exact) / levels if scale_preserving else largest.new_full((), 1 / levels, dtype=exact)
    return one_grid(codes, scale, odd_codes(bit_width))


def odd_codes(bit_width: int) -> range:
    """Return the ``2**bit_width`` odd numbers around zero."""
    levels = 2**bit_width - 1
    return range(-levels, levels + 1, 2)
