"""Common parts of all quantizers: bit widths, code ranges, rounding to a grid and straight-through derivatives.

In general ``code = round(x / scale)``, with ties to the even code, saturated, and the value is ``code * scale``. The
division is by a tensor on the device of ``x``, because CUDA turns a division by a Python number into a product with its
reciprocal, and the two differ where a value lies on a tie. Only PACT is defined as that product,
``round(x * (levels / alpha))``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function

from qra.quant import fused
from qra.quant.grid import Grid, in_blocks, is_one_block

GradientMode = Literal["ste", "ste_soft", "hard"]
"""How rounding and clipping are differentiated.

``ste``: straight through, 1 inside the clip range and 0 outside (Bengio et al. 2013, arXiv 1308.3432).
``ste_soft``: straight through the clipping that quantization adds as well. A quantizer that replaces a ReLU keeps the
ReLU's own derivative, which the float network also has.
``hard``: the true derivative, zero through the rounding. It only serves to diagnose gradient masking.
"""


def check_bit_width(bit_width: int) -> None:
    """Reject bit widths outside 2..8.

    Raises:
        ValueError: If ``bit_width`` is not in 2..8.
    """
    if isinstance(bit_width, float) or bit_width not in range(2, 9):
        raise ValueError(f"bit width {bit_width} is not supported: choose 2 to 8 (32 means no quantizer at all)")


def check_positive(name: str, value: Tensor | float) -> None:
    """Reject zero, negative and non-finite values, if they can be read on the host: Python numbers and CPU tensors.

    Tensors on other devices are not checked, because that would make the host wait for the device in every forward
    pass; nor is any tensor in compiled code. Check such a tensor once, where it is created or loaded, by
    ``check_positive(name, value.cpu())``.

    Raises:
        ValueError: If a value that is checked is not finite or not above zero.
    """
    if isinstance(value, Tensor) and (value.device.type != "cpu" or torch.compiler.is_compiling()):
        return
    values = value.flatten().tolist() if isinstance(value, Tensor) else [value]
    bad = [number for number in values if not 0 < number < math.inf]
    if bad:
        raise ValueError(f"{name} is {bad[0]}, but must be finite and above 0: restart it, or lower its step size")


def like(value: Tensor | float, x: Tensor) -> Tensor:
    """Bring a scale, range or breakpoint to the device and dtype of ``x``, in a shape that broadcasts over ``x``.

    The result is float32 if ``x`` is half precision.

    Args:
        value: A number, one value per channel, (C,), or any tensor that broadcasts over ``x``.
        x: Channel first, (C, ...).
    """
    if not isinstance(value, Tensor):
        return x.new_full((), value, dtype=torch.promote_types(x.dtype, torch.float32))
    if value.ndim == 1 and x.ndim > 1:
        value = value.view(-1, *[1] * (x.ndim - 1))
    return value.to(x.device, torch.promote_types(x.dtype, torch.float32))


def code_range(bit_width: int, signed: bool) -> range:
    """Return all codes: 0 to 2^b - 1, or -2^(b-1) to 2^(b-1) - 1 if signed."""
    return range(-(2 ** (bit_width - 1)), 2 ** (bit_width - 1)) if signed else range(2**bit_width)


def step(width: Tensor, steps: float) -> Tensor:
    """Divide a range into steps. An empty range gets the smallest normal number, so that 0 / step is 0 and not NaN."""
    return (width / steps).clamp_min(torch.finfo(width.dtype).tiny)


_BLOCK = 2**17
"""Number of values that fits a CPU cache several times over."""


def blocks(scale: Tensor, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors of one shape by :func:`qra.quant.grid.in_blocks`, unless ``scale`` has a value for each channel."""
    return iter([tensors]) if scale.numel() > 1 else in_blocks(*tensors, size=_BLOCK)


def to_grid(x: Tensor, grid: Grid) -> Tensor:
    """Quantize to a uniform grid around zero, without derivatives.

    Equal to ``grid.dequantize(grid.codes(x))``, in fewer passes.

    Args:
        x: Any shape.
        grid: Grid whose scale broadcasts over ``x`` and whose zero point is 0.
    """
    if fused.applies(x, grid.scale):
        return fused.quantize(x, grid.scale, grid.ends, grid.per_unit)
    if grid.scale.numel() > 1 or is_one_block(x, _BLOCK):
        return _to_grid(x, grid)
    result = torch.empty_like(x)
    for part, out in blocks(grid.scale, x, result):
        _to_grid(part, grid, out)
    return result


def _to_grid(x: Tensor, grid: Grid, out: Tensor | None = None) -> Tensor:
    # The last step is not in place: with torch 2.11, compiled autograd functions with an in-place result get zero
    # gradients.
    steps = torch.div(x, grid.scale, out=out) if grid.per_unit is None else torch.mul(x, grid.per_unit, out=out)
    return torch.mul(steps.clamp_(*grid.ends).round_(), grid.scale, out=out)


def round_to_grid(x: Tensor, grid: Grid) -> Tensor:
    """Compute :func:`to_grid` with PyTorch's own derivatives: zero through the rounding."""
    steps = x / grid.scale if grid.per_unit is None else x * grid.per_unit
    return steps.clamp_(*grid.ends).round_().mul_(grid.scale)


def pass_between(
    grad: Tensor, x: Tensor, scale: Tensor, limits: tuple[float, float], out: Tensor | None = None
) -> Tensor:
    """Return ``grad`` where ``x`` lies between the limits, ends included, and 0 elsewhere.

    Args:
        grad: Upstream gradient.
        x: Inputs of the quantizer.
        scale: Step of its grid.
        limits: Ends of the range, in steps.
        out: Memory for the result. By default it has the memory format of ``x``: with another format, the gradient
            would make a channels-last network contiguous, and slow, from the pooling back to the image.
    """
    if out is None and fused.applies(x, scale):
        return fused.gradient(grad, x, scale, limits)[0]
    if x.device.type != "cpu" or scale.numel() > 1:
        return _pass(grad, x / scale, *limits, out)
    if not torch.compiler.is_compiling():
        return _pass_on_host(grad, x, scale, *limits, out)
    result = _opaque_pass(grad, x, scale, *limits)
    return result if out is None else out.copy_(result)


def _pass(grad: Tensor, x: Tensor, low: float, high: float, out: Tensor | None) -> Tensor:
    """Pass the gradient between widened limits.

    The ATen call is the only single vectorized pass on a CPU; comparisons create boolean tensors, which take 4 to 8
    times as long.
    """
    low, high = fused.widened((low, high), x.dtype)
    out = torch.empty_like(x) if out is None else out
    result: Tensor = torch.ops.aten.hardtanh_backward.grad_input(grad, x, low, high, grad_input=out)
    return result


def _pass_on_host(grad: Tensor, x: Tensor, scale: Tensor, low: float, high: float, out: Tensor | None = None) -> Tensor:
    """Read the step on the host and compare ``x`` itself, without dividing it."""
    width = scale.item()
    return _pass(grad, x, low * width, high * width, out)


@torch.library.custom_op("qra::pass_on_host", mutates_args=())
def _opaque_pass(grad: Tensor, x: Tensor, scale: Tensor, low: float, high: float) -> Tensor:
    """Hide this from the compiler, which would keep booleans for the backward pass; they are slow to write on a CPU."""
    return _pass_on_host(grad, x, scale, low, high)


@_opaque_pass.register_fake
def _(grad: Tensor, x: Tensor, scale: Tensor, low: float, high: float) -> Tensor:
    return torch.empty_like(x)


class _StraightThrough(Function):
    @staticmethod
    def forward(ctx: Any, carrier: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def straight_through(carrier: Tensor, value: Tensor) -> Tensor:
    """Return exactly ``value``, with the gradient of ``carrier`` (``carrier + (value - carrier)`` is inexact)."""
    result: Tensor = _StraightThrough.apply(carrier, value)
    return result
