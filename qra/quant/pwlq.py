"""Piecewise linear post-training quantization of weights (PWLQ; Fang et al. 2020, arXiv 2002.00104).

A breakpoint p splits [-m, m] into a dense centre (-p, p) and two sparse tails. Each of the four pieces, two on either
side of zero, gets 2^(b-1) levels. Everything is computed in float64 and returned in the dtype of the weights, which are
channel first: (C, ...).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from qra.quant.grid import Grid, Term, WeightGrid, in_blocks
from qra.quant.rounding import check_bit_width, like, step
from qra.quant.uniform import symmetric_grid

Distribution = Literal["gaussian", "laplace"]
BreakpointMethod = Literal["closed_form", "bisection"]
Convention = Literal["code", "paper"]


def piecewise_linear_quantize(
    w: Tensor,
    bit_width: int,
    breakpoint: Tensor | float,
    *,
    max_abs: Tensor | float | None = None,
    overlapping: bool = False,
    convention: Convention = "code",
) -> Tensor:
    """Quantize to at most ``2**(bit_width + 1) - 1`` levels (equation 3); ``|w| = breakpoint`` belongs to a tail.

    Args:
        w: Weights, (C, ...).
        bit_width: 2 to 8. The levels need one more bit, which tells centre from tail.
        breakpoint: Breakpoint in the units of ``w``: one value, or one per channel, (C,) or broadcastable over ``w``.
        max_abs: End m of the range, in the same shapes; by default the largest ``|w|``, per channel if there are
            several breakpoints.
        overlapping: Whether the tails use a symmetric grid of ``bit_width`` over all of [-m, m] (the paper's ablation),
            with up to ``2**(bit_width + 1)`` levels in total. ``convention`` then only affects the centre.
        convention: Step of the centre, where the paper and its released code differ: ``2p / (2^b - 1)`` in the code, so
            that p is not a level of the centre, or ``p / (2^(b-1) - 1)`` in the paper.

    Raises:
        ValueError: If ``bit_width`` is not in 2..8.
    """
    check_bit_width(bit_width)
    x, quantized = w.detach().double(), torch.empty_like(w, requires_grad=False)
    p = like(breakpoint, x)
    m = _end(x, p) if max_abs is None else like(max_abs, x)
    for out, part, inner, outer in in_blocks(quantized, x, p, m):
        out.copy_(_grid(part, bit_width, inner, outer, overlapping, convention).dequantize(w.dtype))
    return quantized


def piecewise_linear_grid(
    w: Tensor, bit_width: int, breakpoint: Tensor, *, overlapping: bool, convention: Convention
) -> WeightGrid:
    """Return the float64 grid of :func:`piecewise_linear_quantize`, with the same arguments.

    Its terms are the centre, the tail counted from the breakpoint, and the breakpoint with the tail's sign. For each
    weight, either the centre or the tail is zero. The overlapping form needs no sign term, because its tails are
    counted from zero.

    Raises:
        ValueError: If ``bit_width`` is not in 2..8.
    """
    check_bit_width(bit_width)
    x = w.detach().double()
    p = like(breakpoint, x)
    return _grid(x, bit_width, p, _end(x, p), overlapping, convention)


def _end(x: Tensor, p: Tensor) -> Tensor:
    """Return the largest ``|x|``, per channel if there are several breakpoints."""
    return x.abs().amax(tuple(range(1, x.ndim)), keepdim=True) if p.numel() > 1 else x.abs().max()


def _grid(x: Tensor, bit_width: int, p: Tensor, m: Tensor, overlapping: bool, convention: Convention) -> WeightGrid:
    top = 2 ** (bit_width - 1) - 1
    # select parts by products with 0 and 1: on a CPU they take a tenth of the time of torch.where
    is_tail, is_positive = ((x.abs() >= p) & (x != 0)).to(x), (x > 0).to(x)
    is_centre, is_negative = 1 - is_tail, 1 - is_positive
    centre = Grid(step(p, top) if convention == "paper" else step(2 * p, 2**bit_width - 1), range(-top, top + 1))
    centre_term = Term(centre.codes(x).mul_(is_centre), centre)
    if overlapping:
        whole = symmetric_grid(m, bit_width)
        return WeightGrid((centre_term, Term(whole.codes(x).mul_(is_tail), whole)))
    tail = Grid(step(m - p, top), range(-top, top + 1))
    if convention == "paper":
        codes = tail.codes(x + p * (is_negative - is_positive))
    else:  # the left tail is counted from its far end
        from_end = x + (m * is_negative - p * is_positive)
        codes = (from_end / tail.scale).round_().clamp_(0, top).sub_(top * is_negative)
    sign = Term(x.sign().mul_(is_tail), Grid(p, range(-1, 2)))
    return WeightGrid((centre_term, Term(codes.mul_(is_tail), tail), sign))


def error_slope(p: Tensor, m: Tensor, distribution: Distribution = "gaussian", overlapping: bool = False) -> Tensor:
    """Return the derivative of the expected squared error with respect to p, up to a positive factor (equation 6).

    Args:
        p: Breakpoint over standard deviation.
        m: ``max|w|`` over standard deviation.
        distribution: Distribution of the weights, with mean 0 and variance 1.
        overlapping: Whether the centre and the tails overlap, see :func:`piecewise_linear_quantize`.
    """
    if distribution == "gaussian":
        density = torch.exp(-p.square() / 2) / math.sqrt(2 * math.pi)
        cumulative: Tensor = torch.special.ndtr(p)
    else:
        decay = torch.exp(-math.sqrt(2) * p)
        density, cumulative = decay / math.sqrt(2), 1 - decay / 2
    if overlapping:
        return 2 * density * (p.square() - m.square()) + 2 * p * (2 * cumulative - 1)
    return p - 2 * m + 2 * m * cumulative + m * density * (2 * p - m)


def optimal_breakpoint(
    max_abs_over_std: Tensor | float,
    distribution: Distribution = "gaussian",
    method: BreakpointMethod = "closed_form",
    *,
    overlapping: bool = False,
) -> Tensor:
    """Return the breakpoint of least expected squared error, which does not depend on the bit width (section 3.3).

    Args:
        max_abs_over_std: ``max|w|`` over standard deviation, any shape.
        distribution: Distribution of the weights, with mean 0 and variance 1.
        method: ``closed_form`` uses the paper's fits, ``log(0.8614 m + 0.6079)`` and ``0.8030 sqrt(m) - 0.3167`` (here
            with the digits of the released code; the paper prints a further division by m, which is an error).
            ``bisection`` finds the zero of :func:`error_slope` on [0, m], until the slope is at most 1e-3.
        overlapping: Whether the pieces overlap; there is no closed form for that case.

    Returns:
        Breakpoints over standard deviation, float64, in the shape of ``max_abs_over_std``.

    Raises:
        ValueError: If ``overlapping`` is combined with the closed form.
    """
    m = torch.as_tensor(max_abs_over_std, dtype=torch.float64)
    if method == "bisection":
        return _bisect(m, distribution, overlapping)
    if overlapping:
        raise ValueError("the overlapping form has no closed form for its breakpoint: choose method bisection")
    laplace: Tensor = 0.80304483 * m.sqrt() - 0.3166785508381478
    return torch.log(0.86143114 * m + 0.607901097496529) if distribution == "gaussian" else laplace


def _bisect(m: Tensor, distribution: Distribution, overlapping: bool) -> Tensor:
    low, high = torch.zeros_like(m), m
    for _ in range(100):
        middle = (low + high) / 2
        slope = error_slope(middle, m, distribution, overlapping)
        moving = slope.abs() > 1e-3
        if not moving.any():
            break
        low = torch.where(moving & (slope < 0), middle, low)
        high = torch.where(moving & (slope > 0), middle, high)
    return (low + high) / 2


def weight_breakpoint(
    w: Tensor,
    *,
    per_channel: bool = True,
    distribution: Distribution = "gaussian",
    method: BreakpointMethod = "closed_form",
    overlapping: bool = False,
) -> Tensor:
    """Return the optimal breakpoint of given weights, from ``max|w|`` and the unbiased standard deviation.

    Args:
        w: Weights, (C, ...).
        per_channel: Whether each channel has its own breakpoint, or all share one.
        distribution: Distribution of the weights, with mean 0 and variance 1.
        method: How the breakpoint is found, see :func:`optimal_breakpoint`.
        overlapping: Whether the centre and the tails overlap, see :func:`piecewise_linear_quantize`.

    Returns:
        Breakpoints in the units of ``w``, float64, (C, 1, ...) or a single value; 0 for channels of zeros.
    """
    rows = _rows(w, per_channel)
    m = rows.abs().amax(1)
    normalized = m / (_std(rows) + 1e-12)
    share = optimal_breakpoint(normalized, distribution, method, overlapping=overlapping) / normalized
    return _unflatten(torch.where(m > 0, share.clamp(0, 1) * m, 0.0), w, per_channel)


def search_breakpoint(
    w: Tensor,
    bit_width: int,
    *,
    per_channel: bool = True,
    overlapping: bool = False,
    convention: Convention = "code",
) -> Tensor:
    """Search the breakpoint of least squared error, trying ``p / max|w|`` in steps of 0.1, then 0.01, then 0.001.

    Args:
        w: Weights, (C, ...).
        bit_width: 2 to 8.
        per_channel: Whether each channel has its own breakpoint, or all share one.
        overlapping: Whether the centre and the tails overlap, see :func:`piecewise_linear_quantize`.
        convention: Convention of the grid, see :func:`piecewise_linear_quantize`.

    Returns:
        Breakpoints in the units of ``w``, float64, (C, 1, ...) or a single value.

    Raises:
        ValueError: If ``bit_width`` is not in 2..8.
    """
    rows = _rows(w, per_channel)
    m = rows.abs().amax(1, keepdim=True)
    best = torch.full_like(m, 0.5)
    least = torch.full_like(m, torch.inf)
    for width, resolution in ((None, 0.1), (0.1, 0.01), (0.01, 0.001)):
        for ratio in _candidates(best, width, resolution):
            quantized = piecewise_linear_quantize(
                rows, bit_width, ratio * m, max_abs=m, overlapping=overlapping, convention=convention
            )
            error = (quantized - rows).square().sum(1, keepdim=True)
            best, least = torch.where(error < least, ratio, best), torch.minimum(error, least)
    return _unflatten(best * m, w, per_channel)


def _candidates(best: Tensor, width: float | None, resolution: float) -> Tensor:
    """Return ratios to try, (tries, C, 1). Rounding can lengthen ``np.arange``; shorter rows repeat the last."""
    if width is None:
        grids = [np.arange(0.1, 1, resolution)] * len(best)
    else:
        grids = [np.arange(ratio - width, ratio + width, resolution) for ratio in best.flatten().tolist()]
    longest = max(map(len, grids))
    padded = np.stack([np.pad(grid, (0, longest - len(grid)), mode="edge") for grid in grids], axis=1)
    return torch.from_numpy(padded).unsqueeze(2).to(best.device)


def bias_correction(w: Tensor, w_q: Tensor) -> Tensor:
    """Shift and scale each channel of quantized weights to the mean and spread of the original (section 3.4).

    Computes ``(w_q + mean(w) - mean(w_q)) * std(w) / std(w_q)``, with unbiased standard deviations. The result is off
    the grid: each channel has its own scale and offset. To correct a whole layer at once, pass ``w[None]`` and
    ``w_q[None]``.

    Args:
        w: Original weights, (C, ...).
        w_q: Quantized weights, in the same shape. A channel of equal values is only shifted.
    """
    stretch, offset = correction(w, w_q)
    return (_rows(w_q, per_channel=True) * stretch + offset).view(w.shape).to(w_q.dtype)


def correction(w: Tensor, w_q: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factor and the offset of each channel in :func:`bias_correction`, float64, (C, 1) each."""
    original, quantized = _rows(w, per_channel=True), _rows(w_q, per_channel=True)
    spread = _std(quantized)
    flat = spread <= 1e-9 * quantized.abs().amax(1)
    stretch = torch.where(flat, 1.0, _std(original) / (spread + 1e-12))
    return stretch.unsqueeze(1), ((original.mean(1) - quantized.mean(1)) * stretch).unsqueeze(1)


def _rows(w: Tensor, per_channel: bool) -> Tensor:
    """Return the groups of weights that share a grid, one per row, in float64."""
    return w.detach().double().reshape(len(w) if per_channel else 1, -1)


def _std(rows: Tensor) -> Tensor:
    """Return the unbiased standard deviation, 0 for a single value."""
    return rows.std(1) if rows.shape[1] > 1 else torch.zeros_like(rows[:, 0])


def _unflatten(values: Tensor, w: Tensor, per_channel: bool) -> Tensor:
    return values.view(-1, *[1] * (w.ndim - 1)) if per_channel else values.view(())
