"""Triton kernels of the quantizers, with one launch for a whole tensor. See :mod:`qra.quant.fused`."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _steps(x, scale, factor, place, inside, multiply: tl.constexpr):
    """Values in steps of the grid. The division is IEEE-conformant, so that ties fall as on other devices."""
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if multiply:
        return value * tl.load(factor)
    return tl.div_rn(value, tl.load(scale))


@triton.jit
def _code(steps, low, high):
    """Round to the nearest code, ties to even. Adding and subtracting 1.5 * 2^23 removes the fraction."""
    clipped = tl.minimum(tl.maximum(steps, low, tl.PropagateNan.ALL), high, tl.PropagateNan.ALL)
    return (clipped + 12582912.0) - 12582912.0


@triton.jit
def quantize_kernel(x, scale, factor, out, n, low, high, multiply: tl.constexpr, block: tl.constexpr):
    """Kernel of :func:`qra.quant.fused.quantize`."""
    place = tl.program_id(0) * block + tl.arange(0, block)
    inside = place < n
    code = _code(_steps(x, scale, factor, place, inside, multiply), low, high)
    tl.store(out + place, code * tl.load(scale), mask=inside)


@triton.jit
def gradient_kernel(
    grad, x, scale, out, sums, n, low, high, low_2, high_2, code_low, code_high, of: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    """Kernel of :func:`qra.quant.fused.gradient`. Each program writes one term to ``sums``."""
    place = tl.program_id(0) * block + tl.arange(0, block)
    inside = place < n
    upstream = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
    steps = _steps(x, scale, scale, place, inside, False)
    passed = tl.where((steps <= low) | (steps >= high), 0.0, upstream)
    tl.store(out + place, passed.to(out.dtype.element_ty), mask=inside)
    if of != "x":
        term = tl.where((steps <= low_2) | (steps >= high_2), 0.0, upstream)
        if of == "step":
            term = upstream * _code(steps, code_low, code_high) - term * steps
        tl.store(sums + tl.program_id(0), tl.sum(term, axis=0))
