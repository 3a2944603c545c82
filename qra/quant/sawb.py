"""Statistics-aware weight binning (SAWB; Choi et al. 2018, arXiv 1807.06964)."""

from __future__ import annotations

import torch
from torch import Tensor

from qra.precision import at_least_float32
from qra.quant.dorefa import odd_codes
from qra.quant.grid import WeightGrid, one_grid
from qra.quant.rounding import check_bit_width, straight_through

_COEFFICIENTS = {2: (3.12, -2.064), 3: (7.509, -6.892), 4: (12.68, -12.80), 5: (17.74, -18.64), 8: (31.76, -35.04)}


def sawb_clip(w: Tensor, bit_width: int) -> Tensor:
    """Return the clip level ``c1 sqrt(mean(w^2)) + c2 mean|w|``, one value, at most ``max|w|``.

    Coefficients were published for 2, 3, 4, 5 and 8 bits. For 6 and 7 bits, and where the formula is not above 0
    (weights that are far from bell-shaped), the level is ``max|w|``.

    Args:
        w: Weights of one layer, any shape.
        bit_width: 2 to 8.

    Raises:
        ValueError: If ``bit_width`` is not in 2..8.
    """
    check_bit_width(bit_width)
    magnitude = at_least_float32(w.detach()).abs()
    largest = magnitude.max()
    if bit_width not in _COEFFICIENTS:
        return largest
    c1, c2 = _COEFFICIENTS[bit_width]
    level = c1 * magnitude.square().mean().sqrt() + c2 * magnitude.mean()
    return torch.where(level > 0, level, largest).minimum(largest)


def sawb_weight(w: Tensor, bit_width: int) -> Tensor:
    """Quantize to the ``2**bit_width`` odd multiples of ``a / (2**bit_width - 1)``, where ``a`` is :func:`sawb_clip`.

    The gradient is straight through where ``|w| <= a`` and 0 elsewhere; ``a`` is held constant.

    Args:
        w: Weights of one layer, any shape.
        bit_width: 2 to 8.

    Raises:
        ValueError: If ``bit_width`` is not in 2..8.
    """
    w = at_least_float32(w)
    level = sawb_clip(w, bit_width)
    clipped = w.clamp(-level, level)
    return straight_through(clipped, _grid(clipped.detach(), level, bit_width).dequantize(w.dtype))


def sawb_grid(w: Tensor, bit_width: int) -> WeightGrid:
    """Return the grid of :func:`sawb_weight`, with the same arguments: odd codes from -(2^b - 1) to 2^b - 1."""
    w = at_least_float32(w.detach())
    level = sawb_clip(w, bit_width)
    return _grid(w.clamp(-level, level), level, bit_width)


def _grid(clipped: Tensor, level: Tensor, bit_width: int) -> WeightGrid:
    levels = 2**bit_width - 1
    half = level.clamp_min(torch.finfo(clipped.dtype).tiny)
    codes = clipped.div(half).add_(1).mul_(levels / 2).round_().mul_(2).sub_(levels)
    return one_grid(codes, level / levels, odd_codes(bit_width))
