"""PACT activations with a learnable clip level (Choi et al. 2018, arXiv 1805.06085, equations 1 to 3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from qra.precision import at_least_float32
from qra.quant import fused
from qra.quant.grid import Grid
from qra.quant.rounding import (
    GradientMode,
    blocks,
    check_bit_width,
    check_positive,
    code_range,
    like,
    pass_between,
    round_to_grid,
    to_grid,
)


def pact_grid(alpha: Tensor, bit_width: int) -> Grid:
    """Return the grid with levels ``code * alpha / (2**bit_width - 1)``, with codes from 0."""
    levels = 2**bit_width - 1
    return Grid(alpha / levels, code_range(bit_width, signed=False), per_unit=levels / alpha)


class _Pact(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, bit_width: int, soft: bool) -> Tensor:
        grid = pact_grid(alpha, bit_width)
        ctx.save_for_backward(x, grid.scale)
        ctx.levels, ctx.soft = 2**bit_width - 1, soft
        return to_grid(x, grid)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        x, scale = ctx.saved_tensors
        limits = (0, torch.inf if ctx.soft else ctx.levels)
        if not ctx.needs_input_grad[1]:
            return pass_between(grad, x, scale, limits), None, None, None
        if fused.applies(x, scale):
            clip = (ctx.levels, torch.inf)
            x_grad, alpha_grad = fused.gradient(grad, x, scale, limits, of="clip", limits_2=clip)
            return x_grad, alpha_grad.view_as(scale), None, None
        x_grad, sums = torch.empty_like(x), []
        for part, grads, out in blocks(scale, x, grad, x_grad):
            above = pass_between(grads, part, scale, (ctx.levels, torch.inf), out)
            sums.append(above.sum_to_size(scale.shape))
            pass_between(grads, part, scale, limits, out)
        return x_grad, torch.stack(sums).sum(0), None, None


def pact(x: Tensor, alpha: Tensor | float, bit_width: int, gradient: GradientMode = "ste") -> Tensor:
    """Clip to [0, alpha] and quantize to ``2**bit_width`` levels, both ends included. It replaces a ReLU.

    The gradient with respect to ``x`` is that of the clip, 1 on [0, alpha]; under ``ste_soft`` that of the ReLU, 1 on
    [0, inf). The gradient with respect to ``alpha`` is the sum of the upstream gradient where ``x >= alpha``. Under
    ``hard`` both are the true derivatives: zero for ``x``.

    Args:
        x: Pre-activations, any shape. Half precision is computed and returned in float32.
        alpha: Clip level, one value (or any shape that broadcasts over ``x``).
        bit_width: 2 to 8.
        gradient: How to differentiate.

    Raises:
        ValueError: If ``bit_width`` is not in 2..8, or ``alpha`` is not finite or not above 0 (checked only where that
            does not wait for a device, see :func:`qra.quant.rounding.check_positive`).
    """
    check_bit_width(bit_width)
    check_positive("alpha", alpha)
    alpha = like(alpha, x)
    if gradient == "hard" or not fused.applies(x, alpha):
        x = at_least_float32(x)
    if not torch.is_grad_enabled():
        return to_grid(x, pact_grid(alpha, bit_width))
    if gradient == "hard":
        return round_to_grid(x, pact_grid(alpha, bit_width))
    result: Tensor = _Pact.apply(x, alpha, bit_width, gradient == "ste_soft")
    return result
