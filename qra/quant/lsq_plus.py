"""LSQ+: activations of either sign on a grid with learned step and offset (Bhalgat et al. 2020, arXiv 2004.09576)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd import Function

from qra.checks import check_in
from qra.precision import at_least_float32
from qra.quant.activations import ActivationQuantizer, State
from qra.quant.grid import Grid
from qra.quant.ranges import Percentile, Range, RangeEstimator
from qra.quant.rounding import GradientMode, check_bit_width, check_positive, like


class _LsqPlus(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, step: Tensor, offset: Tensor, levels: int, gradient_scale: float, soft: bool
    ) -> Tensor:
        ctx.save_for_backward(x, step, offset)
        ctx.levels, ctx.gradient_scale, ctx.soft = levels, gradient_scale, soft
        return _quantize(x, step, offset, levels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, step, offset = ctx.saved_tensors
        low, high = _codes(step, offset, ctx.levels)
        steps = x / step
        slack = 2 * torch.finfo(x.dtype).eps  # rounding may have moved a value that was exactly on a limit
        inside = (steps >= low - slack * low.abs()) & (steps <= high + slack * high.abs())
        x_grad = grad if ctx.soft else grad * inside
        if not ctx.needs_input_grad[1]:
            return x_grad, None, None, None, None, None
        codes = steps.round().clamp_(low, high)
        slope = torch.where(inside, codes - steps, codes - low)
        step_grad = (slope * grad).sum() * ctx.gradient_scale
        offset_grad = (grad * ~inside).sum() * ctx.gradient_scale * offset.ne(0)
        return x_grad, step_grad.view_as(step), offset_grad.view_as(offset), None, None, None


def lsq_plus_grid(step: Tensor, offset: Tensor, bit_width: int) -> Grid:
    """Return the grid of multiples of a step with codes from 0, starting at the multiple nearest to the offset."""
    low, _ = _codes(step, offset, 2**bit_width - 1)
    return Grid(step, range(2**bit_width), -low)


def _codes(step: Tensor, offset: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Return the smallest and largest multiple of the step. Zero lies between them, whatever the learned offset."""
    low = (offset / step).round().clamp(-levels, 0)
    return low, low + levels


def _quantize(x: Tensor, step: Tensor, offset: Tensor, levels: int) -> Tensor:
    low, high = _codes(step, offset, levels)
    return torch.mul((x / step).round_().clamp_(low, high), step)


def lsq_plus(
    x: Tensor,
    step: Tensor,
    offset: Tensor,
    bit_width: int,
    *,
    features: int | None = None,
    gradient: GradientMode = "ste",
) -> Tensor:
    """Quantize to ``2**bit_width`` levels, one step apart, the lowest at ``offset`` (equations 3 to 6).

    In effect, the offset is rounded to a multiple of the step and clamped so that zero, with which convolutions pad, is
    a level (in the paper it is not). The gradients are those of the paper. With respect to ``x``: 1 between the lowest
    and the highest level, 0 elsewhere. With respect to ``step``, with ``v = (x - offset) / step``: ``round(v) - v``
    between them, 0 below and ``2**bit_width - 1`` above. With respect to ``offset``: 0 between them and 1 elsewhere.
    The latter two are divided by the square root of ``features`` times the largest code. An offset of exactly zero gets
    no gradient and stays zero.

    Args:
        x: Activations, any shape. Half precision is computed and returned in float32.
        step: One value, above 0.
        offset: One value; above 0 it acts as 0.
        bit_width: 2 to 8.
        features: Number of values of one example; ``x[0].numel()`` by default.
        gradient: How to differentiate: ``ste_soft`` as the identity, ``hard`` as zero.

    Raises:
        ValueError: If ``bit_width`` is not in 2..8, or ``step`` is not finite or not above 0 (checked only where that
            does not wait for a device, see :func:`qra.quant.check_positive`).
    """
    check_bit_width(bit_width)
    check_positive("step", step)
    x = at_least_float32(x)
    step, offset, levels = like(step, x), like(offset, x), 2**bit_width - 1
    if gradient == "hard" or not torch.is_grad_enabled():
        return _quantize(x, step, offset, levels)
    gradient_scale = 1 / math.sqrt((features or x[0].numel()) * levels)
    result: Tensor = _LsqPlus.apply(x, step, offset, levels, gradient_scale, gradient == "ste_soft")
    return result


@dataclass(frozen=True)
class LSQPlus(ActivationQuantizer):
    """A step and an offset learned for the input of each layer (Bhalgat et al. 2020, arXiv 2004.09576).

    It does not depend on ReLUs: outputs of SiLU, GELU, Hardswish, linear bottlenecks and attention are quantized at the
    inputs of the next layers. Where calibration finds no negative values, the grid is unsigned and has no offset. The
    image is not quantized.

    Args:
        percentile: Percentage of each site's values that lie below the initial highest level, and above the initial
            lowest, in the float network on the calibration images. None to start from ``high``.
        high: Initial highest level without calibration; the lowest is then 0.
    """

    percentile: float | None = 99.9
    high: float = 10.0

    replaces_relu: ClassVar[bool] = False
    inputs_of: ClassVar[tuple[type[nn.Module], ...]] = (nn.Conv2d, nn.Linear)
    quantizes_image: ClassVar[bool] = False
    signed: ClassVar[frozenset[str]] = frozenset({"offset"})
    state_depends_on_bits: ClassVar[bool] = True
    replayable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_in("high", self.high, "(0, inf)")
        self.estimator(8)

    def start(self, bit_width: int) -> dict[str, float]:
        return self.from_range(Range(0.0, self.high), bit_width)

    def quantize(self, x: Tensor, bit_width: int, state: State, gradient: GradientMode) -> Tensor:
        step, offset = state["step"], state["offset"]
        assert isinstance(step, Tensor)  # learned state consists of tensors
        assert isinstance(offset, Tensor)
        return lsq_plus(x, step, offset, bit_width, gradient=gradient)

    def grid(self, bit_width: int, state: State, dtype: torch.dtype = torch.float32) -> Grid:
        step, offset = (torch.as_tensor(state[name]).detach().to(dtype) for name in ("step", "offset"))
        return lsq_plus_grid(step, offset, bit_width)

    def estimator(self, bit_width: int) -> RangeEstimator | None:
        return None if self.percentile is None else Percentile(self.percentile).estimator(bit_width)

    def from_range(self, found: Range, bit_width: int) -> dict[str, float]:
        low, high = min(found.low, 0.0), max(found.high, 0.0)
        return {"step": max((high - low) / (2**bit_width - 1), self.smallest), "offset": low}
