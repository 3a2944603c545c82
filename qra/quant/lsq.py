"""Learned step size quantization (LSQ; Esser et al. 2020, arXiv 1902.08153)."""

from __future__ import annotations

import math
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


def lsq_grid(step: Tensor, bit_width: int, signed: bool) -> Grid:
    """Return the grid of multiples of a step, with codes from -2^(b-1) if signed, else from 0."""
    return Grid(step, code_range(bit_width, signed))


class _Lsq(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, bit_width: int, signed: bool, gradient_scale: float, soft: bool
    ) -> Tensor:
        ctx.save_for_backward(x, scale)
        grid = lsq_grid(scale, bit_width, signed)
        ctx.codes, ctx.gradient_scale = grid.ends, gradient_scale
        ctx.limits = (-math.inf if signed else 0, math.inf) if soft else ctx.codes
        return to_grid(x, grid)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, None]:
        x, scale = ctx.saved_tensors
        if not ctx.needs_input_grad[1]:
            return pass_between(grad, x, scale, ctx.limits), None, None, None, None, None
        if fused.applies(x, scale):
            x_grad, step_grad = fused.gradient(
                grad, x, scale, ctx.limits, of="step", limits_2=ctx.codes, codes=ctx.codes
            )
            return x_grad, step_grad.mul_(ctx.gradient_scale).view_as(scale), None, None, None, None
        x_grad, sums = torch.empty_like(x), []
        for part, grads, out in blocks(scale, x, grad, x_grad):
            steps = part / scale
            slope = steps.clamp(*ctx.codes).round_().mul_(grads)
            slope.addcmul_(pass_between(grads, part, scale, ctx.codes, out), steps, value=-1)
            sums.append(slope.sum_to_size(scale.shape))
            pass_between(grads, part, scale, ctx.limits, out)
        return x_grad, torch.stack(sums).sum(0).mul_(ctx.gradient_scale), None, None, None, None


def lsq(
    x: Tensor,
    step: Tensor,
    bit_width: int,
    signed: bool,
    *,
    features: int | None = None,
    gradient: GradientMode = "ste",
) -> Tensor:
    """Quantize to multiples of a learnable step (equations 1 and 2).

    Codes run from ``-Q_N`` to ``Q_P``: -2^(b-1) to 2^(b-1) - 1 if signed, 0 to 2^b - 1 if not. With ``v = x / step``,
    the gradient with respect to ``x`` is 1 where ``-Q_N <= v <= Q_P`` and 0 elsewhere (equation 5). With respect to
    ``step`` it is ``round(v) - v`` in that range, ``-Q_N`` below and ``Q_P`` above (equation 3), times
    ``1 / sqrt(features Q_P)`` (section 2.2). Under ``ste_soft``, an unsigned quantizer, which replaces a ReLU, has the
    derivative of the ReLU, and a signed one that of the identity.

    Args:
        x: Weights or activations, any shape. Half precision is computed and returned in float32.
        step: One value, or one per channel, (C,) or broadcastable over ``x``.
        bit_width: 2 to 8.
        signed: True for weights and signed activations.
        features: Number of values that share a step. By default the number in ``x``, which is right for weights; for
            activations pass that of one example, ``x[0].numel()``.
        gradient: How to differentiate. ``hard`` uses the true derivatives: zero for ``x``.

    Raises:
        ValueError: If ``bit_width`` is not in 2..8, or ``step`` is not finite or not above 0 (checked only where that
            does not wait for a device, see :func:`qra.quant.rounding.check_positive`).
    """
    check_bit_width(bit_width)
    check_positive("step", step)
    scale = like(step, x)
    if gradient == "hard" or not fused.applies(x, scale):
        x = at_least_float32(x)
    if not torch.is_grad_enabled():
        return to_grid(x, lsq_grid(scale, bit_width, signed))
    if gradient == "hard":
        return round_to_grid(x, lsq_grid(scale, bit_width, signed))
    gradient_scale = 1 / math.sqrt((features or x.numel() // scale.numel()) * code_range(bit_width, signed)[-1])
    result: Tensor = _Lsq.apply(x, scale, bit_width, signed, gradient_scale, gradient == "ste_soft")
    return result


def lsq_initial_step(x: Tensor, bit_width: int, signed: bool) -> Tensor:
    """Return the initial step, ``2 mean|x| / sqrt(Q_P)`` (section 2.1), one value.

    Args:
        x: Weights, or the first batch of activations.
        bit_width: 2 to 8.
        signed: Whether the grid has negative values, see :func:`lsq`.

    Raises:
        ValueError: If ``bit_width`` is not in 2..8, or ``x`` is all zero or not finite (checked on the CPU only).
    """
    check_bit_width(bit_width)
    start = 2 * at_least_float32(x.detach()).abs().mean() / math.sqrt(code_range(bit_width, signed)[-1])
    check_positive("the initial step", start)
    return start
