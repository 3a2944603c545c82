"""The operations of an integer program, from the bytes of an image to logits.

Their numerics are defined to the last bit, so that every executor gets the same codes: sums of products of integers are
exact, and :class:`Combine` consists of single float32 operations that are rounded one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

IMAGE = "image"
"""Name of the input: bytes, (N, C, H, W)."""
LOGITS = "logits"
"""Name of the last operation."""
EXACT = 2**24
"""Integers of smaller magnitude are exact in float32."""

Pair = tuple[int, int]


class Part(NamedTuple):
    """A range of channels of a value.

    Attributes:
        source: Name of the operation that computes the value.
        start: First channel.
        stop: Channel after the last. A single channel stands for all channels of a sum.
    """

    source: str
    start: int
    stop: int


@dataclass(frozen=True)
class Op:
    """An operation.

    Args:
        name: Name of its result, which is that of the module it was lowered from, if there is one.
    """

    tensors: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that hold tensors."""

    name: str

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of its inputs."""
        return (vars(self)["source"],)


@dataclass(frozen=True)
class Convolution(Op):
    """Sums of products of codes and integer weights; the codes are padded with 0.

    Args:
        source: Name of the codes, (N, I, H, W).
        weight: Integers, int8 or int16, (O, I / groups, height, width).
        stride: Rows and columns from one sum to the next.
        padding: Rows and columns of zeros on each side.
        dilation: Rows and columns from one weight to the next.
        groups: Number of groups of channels.
    """

    tensors: ClassVar[tuple[str, ...]] = ("weight",)

    source: str
    weight: Tensor
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True)
class Linear(Op):
    """Sums of products of integers.

    Args:
        source: Name of the integers, (N, I).
        weight: Integers, int8 or int16, (O, I).
    """

    tensors: ClassVar[tuple[str, ...]] = ("weight",)

    source: str
    weight: Tensor


@dataclass(frozen=True)
class WindowSum(Op):
    """Sums over windows, (N, C, H, W) to (N, C, rows, columns). The division of an average is done later.

    Float values are summed in float64, over windows that tile them, and rounded to float32 once, so that the order of
    summation matters only for ties of this rounding.

    Args:
        source: Name of codes or float values.
        kernel: Rows and columns of a window.
        stride: Rows and columns from one window to the next.
        padding: Rows and columns of zeros on each side.
    """

    source: str
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)

    def lie_side_by_side(self, shape: tuple[int, ...]) -> bool:
        """Whether the windows tile values of a shape, (C, H, W), without overlaps or gaps."""
        rests = (length % own for length, own in zip(shape[1:], self.kernel, strict=True))
        return self.kernel == self.stride and self.padding == (0, 0) and not any(rests)


@dataclass(frozen=True)
class WindowMax(Op):
    """Maximum over windows.

    Args:
        source: Name of codes or float values, (N, C, H, W).
        kernel: Rows and columns of a window.
        stride: Rows and columns from one window to the next.
        padding: Rows and columns on each side, with values below all others.
    """

    source: str
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)


@dataclass(frozen=True)
class Shortcut(Op):
    """Strided selection of pixels, with additional channels of zeros.

    Args:
        source: Name of codes or float values, (N, C, H, W).
        step: Rows and columns from one pixel to the next.
        channels: Number of zero channels before and after.
    """

    source: str
    step: Pair
    channels: Pair


@dataclass(frozen=True)
class Flatten(Op):
    """Flattening of each image.

    Args:
        source: Name of the values, (N, C, H, W).
    """

    source: str


@dataclass(frozen=True)
class Combine(Op):
    """``u = p_0 f_0 + offset + p_1 f_1 + ...``, from left to right, with each product and each sum rounded to float32.

    Args:
        parts: The summands; integers are rounded to float32 first.
        factors: Factor of each part and channel, float32, (parts, C).
        offset: Summand per channel, (C,), or per channel and position, (C, H, W), float32.
    """

    tensors: ClassVar[tuple[str, ...]] = ("factors", "offset")

    parts: tuple[Part, ...]
    factors: Tensor
    offset: Tensor

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(part.source for part in self.parts)


@dataclass(frozen=True)
class Requantize(Combine):
    """Codes: ``u`` rounded, with ties to even, plus the zero point, and clipped.

    Args:
        low: Smallest code.
        high: Largest code.
        scale: Value of one step, in the units of the network.
        zero_point: Code that stands for zero.
    """

    low: int = 0
    high: int = 255
    scale: float = 1.0
    zero_point: int = 0


@dataclass(frozen=True)
class Real(Combine):
    """Float values: ``u``, clipped.

    Args:
        low: Smallest value, such as 0 for a ReLU; None for no limit.
        high: Largest value; None for no limit.
    """

    low: float | None = None
    high: float | None = None


KINDS: Mapping[str, type[Op]] = {
    kind.__name__: kind for kind in (Convolution, Linear, WindowSum, WindowMax, Shortcut, Flatten, Requantize, Real)
}
