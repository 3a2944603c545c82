"""Quantizers that run in one kernel launch on a GPU, forward and backward, instead of one per operation.

They equal the plain operations of :mod:`qra.quant.rounding`, which are used wherever Triton or a GPU is missing, in
compiled code (which fuses by itself), in float64 and for per-channel steps.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from qra.triton_kernels import kernels_of

_KERNELS = "qra.quant.kernels"
_BLOCK = 1024


def applies(x: Tensor, scale: Tensor) -> bool:
    """Whether a tensor can be quantized in one launch."""
    if x.device.type != "cuda" or scale.numel() > 1 or scale.dtype != torch.float32:
        return False
    if torch.compiler.is_compiling() or x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return False
    return x.numel() > 0 and _is_dense(x) and kernels_of(_KERNELS) is not None


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))


def quantize(x: Tensor, scale: Tensor, codes: tuple[int, int], factor: Tensor | None = None) -> Tensor:
    """Compute :func:`qra.quant.rounding.to_grid` in float32."""
    kernels = kernels_of(_KERNELS)
    assert kernels is not None  # checked by `applies`
    out = torch.empty_like(x, dtype=torch.float32)
    arguments = x, scale, scale if factor is None else factor, out, x.numel(), *map(float, codes)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # Triton launches on the current device
        kernels.quantize_kernel[(_programs(x),)](*arguments, multiply=factor is not None, block=_BLOCK)
    return out


def gradient(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    limits: tuple[float, float],
    *,
    of: Literal["x", "clip", "step"] = "x",
    limits_2: tuple[float, float] = (0.0, 0.0),
    codes: tuple[int, int] = (0, 0),
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of a quantizer's input and of its learned value.

    Args:
        grad: Upstream gradient.
        x: Inputs of the quantizer.
        scale: Step of its grid.
        limits: Ends of the range, in steps, in which the gradient passes to the input.
        of: The learned value. ``x``: none. ``clip``: a clip level, whose gradient is the sum of ``grad`` between
            ``limits_2``. ``step``: the step, whose gradient is the sum of ``grad * code`` minus the sum of
            ``grad * x / scale`` between ``limits_2``.
        limits_2: Ends of the second range, in steps.
        codes: Smallest and largest code, for ``step``.

    Returns:
        The gradient of the input, in its dtype, and that of the learned value, one value (0 for ``of="x"``).
    """
    kernels = kernels_of(_KERNELS)
    assert kernels is not None  # checked by `applies`
    if grad.stride() != x.stride():
        grad = torch.empty_like(x, dtype=grad.dtype).copy_(grad)
    out = torch.empty_like(x)
    sums = x.new_empty(_programs(x) if of != "x" else 0, dtype=torch.float32)
    bounds = *widened(limits, torch.float32), *widened(limits_2, torch.float32), *map(float, codes)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        kernels.gradient_kernel[(_programs(x),)](grad, x, scale, out, sums, x.numel(), *bounds, of=of, block=_BLOCK)
    return out, sums.sum()


def widened(limits: tuple[float, float], dtype: torch.dtype) -> tuple[float, float]:
    """Widen limits by two rounding errors, which may have moved a value off a limit that it equals."""
    slack, tiny = 2 * torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    low, high = limits
    return low - slack * abs(low) - tiny, high + slack * abs(high) + tiny


def _programs(x: Tensor) -> int:
    return -(-x.numel() // _BLOCK)
