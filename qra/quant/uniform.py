"""Uniform quantizers with given ranges (Fang et al. 2020, arXiv 2002.00104, equation 1).

Ranges are numbers, tensors with one value, or one value per channel: ``(C,)`` over a channel-first ``x``, or any shape
that broadcasts. They get no gradient. Results are float32, or float64 if ``x`` is.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from qra.precision import at_least_float32
from qra.quant.grid import Grid
from qra.quant.rounding import (
    GradientMode,
    check_bit_width,
    code_range,
    like,
    pass_between,
    round_to_grid,
    step,
    to_grid,
)


def symmetric_grid(max_abs: Tensor, bit_width: int) -> Grid:
    """Return the grid with levels ``code * 2 max_abs / (2**bit_width - 1)``, codes from -2^(b-1) to 2^(b-1) - 1."""
    return Grid(step(2 * max_abs, 2**bit_width - 1), code_range(bit_width, signed=True))


def unsigned_grid(high: Tensor, bit_width: int) -> Grid:
    """Return the grid with levels ``code * high / (2**bit_width - 1)``, with codes from 0."""
    return Grid(step(high, 2**bit_width - 1), code_range(bit_width, signed=False))


class _Uniform(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, bit_width: int, signed: bool, soft: bool) -> Tensor:
        ctx.limits = None if soft else _limits(bit_width, signed)
        if not soft:
            ctx.save_for_backward(x, scale)
        return to_grid(x, Grid(scale, code_range(bit_width, signed)))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        if ctx.limits is not None:
            x, scale = ctx.saved_tensors
            grad = pass_between(grad, x, scale, ctx.limits)
        return grad, None, None, None, None


def _limits(bit_width: int, signed: bool) -> tuple[float, float]:
    """Return the clip limits in steps. The signed range [-max_abs, max_abs] ends half a step above the top code."""
    levels = 2**bit_width - 1
    return (-levels / 2, levels / 2) if signed else (0, levels)


def _check_range(low: Tensor | float, high: Tensor | float) -> None:
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return  # reading could wait for a device, and zero-width ranges of dead channels are fine
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"cannot quantize to the range [{low}, {high}]: both ends must be finite, the lower one first")


def _quantize(x: Tensor, grid: Grid, bit_width: int, signed: bool, gradient: GradientMode) -> Tensor:
    if not torch.is_grad_enabled():
        return to_grid(x, grid)
    if gradient == "hard":
        return round_to_grid(x, grid)
    result: Tensor = _Uniform.apply(x, grid.scale, bit_width, signed, gradient == "ste_soft")
    return result


def uniform_symmetric(x: Tensor, bit_width: int, max_abs: Tensor | float, gradient: GradientMode = "ste") -> Tensor:
    """Quantize to the levels ``code * 2 max_abs / (2**bit_width - 1)``, with codes from -2^(b-1) to 2^(b-1) - 1.

    The ends of the range are not levels: ``max_abs`` lies half a step above the largest level and ``-max_abs`` half a
    step above the smallest, on a rounding tie that the last bit of ``max_abs`` decides.

    Args:
        x: Weights or activations, any shape.
        bit_width: 2 to 8.
        max_abs: The range is [-max_abs, max_abs]. Where it is 0, the result is 0.
        gradient: How to differentiate with respect to ``x``.

    Raises:
        ValueError: If ``bit_width`` is not in 2..8, or ``max_abs`` is a number that is negative or not finite.
    """
    check_bit_width(bit_width)
    _check_range(0, max_abs)
    x = at_least_float32(x)
    return _quantize(x, symmetric_grid(like(max_abs, x), bit_width), bit_width, True, gradient)


def uniform_unsigned(x: Tensor, bit_width: int, high: Tensor | float, gradient: GradientMode = "ste") -> Tensor:
    """Quantize to the ``2**bit_width`` levels ``code * high / (2**bit_width - 1)``, with codes from 0.

    Args:
        x: Activations, any shape.
        bit_width: 2 to 8.
        high: The range is [0, high].
        gradient: How to differentiate with respect to ``x``.

    Raises:
        ValueError: If ``bit_width`` is not in 2..8, or ``high`` is a number that is negative or not finite.
    """
    check_bit_width(bit_width)
    _check_range(0, high)
    x = at_least_float32(x)
    return _quantize(x, unsigned_grid(like(high, x), bit_width), bit_width, False, gradient)


def uniform_affine(
    x: Tensor, bit_width: int, low: Tensor | float, high: Tensor | float, gradient: GradientMode = "ste"
) -> Tensor:
    """Quantize to ``2**bit_width`` levels from ``low`` to ``high``, both ends included.

    Args:
        x: Weights or activations, any shape.
        bit_width: 2 to 8.
        low: Lower end of the range.
        high: Upper end of the range, at least ``low``.
        gradient: How to differentiate with respect to ``x``.

    Raises:
        ValueError: If ``bit_width`` is not in 2..8, or both ends are numbers, and not finite or in the wrong order.
    """
    check_bit_width(bit_width)
    _check_range(low, high)
    x = at_least_float32(x)
    offset = like(low, x)
    return _quantize(x - offset, unsigned_grid(like(high, x) - offset, bit_width), bit_width, False, gradient) + offset
