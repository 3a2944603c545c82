"""The operations of a program of integers, from the bytes of an image to logits.

Their numerics are defined to the last bit, so that whoever runs them gets the same codes: sums of products of integers
are exact; :class:`Combine` is single operations in float32, each rounded by itself.
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
"""Whole numbers below it are exact in float32."""

Pair = tuple[int, int]


class Part(NamedTuple):
    """Some channels of a value.

    Attributes:
        source: Name of the operation that made it.
        start: First channel.
        stop: Channel behind the last. A single channel stands for all channels of a sum.
    """

    source: str
    start: int
    stop: int


@dataclass(frozen=True)
class Op:
    """One operation.

    Args:
        name: Name of its result: that of the module of the network that it was made of, where there is one.
    """

    tensors: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that hold tensors."""

    name: str

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of what it takes."""
        return (vars(self)["source"],)


@dataclass(frozen=True)
class Convolution(Op):
    """Sums of products of codes and integer weights; beyond the border, codes are 0.

    Args:
        source: Name of the codes, (N, I, H, W).
        weight: Whole numbers, int8 or int16, (O, I / groups, height, width).
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
    """Sums of products of whole numbers.

    Args:
        source: Name of the whole numbers, (N, I).
        weight: Whole numbers, int8 or int16, (O, I).
    """

    tensors: ClassVar[tuple[str, ...]] = ("weight",)

    source: str
    weight: Tensor


@dataclass(frozen=True)
class WindowSum(Op):
    """Sums over windows, (N, C, H, W) to (N, C, rows, columns); the division of an average comes later.

    Those of float values, whose windows lie side by side, are made in float64 and rounded to float32 once: only ties of
    this rounding tell in which order they were made.

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
        """Whether windows on values of a shape, (C, H, W), neither overlap nor leave anything out."""
        rests = (length % own for length, own in zip(shape[1:], self.kernel, strict=True))
        return self.kernel == self.stride and self.padding == (0, 0) and not any(rests)


@dataclass(frozen=True)
class WindowMax(Op):
    """Largest value of windows.

    Args:
        source: Name of codes or float values, (N, C, H, W).
        kernel: Rows and columns of a window.
        stride: Rows and columns from one window to the next.
        padding: Rows and columns on each side that are smaller than anything.
    """

    source: str
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)


@dataclass(frozen=True)
class Shortcut(Op):
    """Every so many pixels, and channels of zeros.

    Args:
        source: Name of codes or float values, (N, C, H, W).
        step: Rows and columns from one pixel to the next.
        channels: Channels of zeros in front and behind.
    """

    source: str
    step: Pair
    channels: Pair


@dataclass(frozen=True)
class Flatten(Op):
    """All values of an image in one row.

    Args:
        source: Name of the values, (N, C, H, W).
    """

    source: str


@dataclass(frozen=True)
class Combine(Op):
    """``u = p_0 f_0 + offset + p_1 f_1 + ...``, from the left, each product and each sum rounded to float32.

    Args:
        parts: What is summed; whole numbers are rounded to float32 first.
        factors: Factor of each part and channel, float32, (parts, C).
        offset: Summand of each channel, (C,), or of each channel and place, (C, H, W); float32.
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
    """Codes: ``u`` rounded, ties to even, plus the zero point, and clipped.

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
        low: Smallest value: 0 for a ReLU; None for no limit.
        high: Largest value.
    """

    low: float | None = None
    high: float | None = None


KINDS: Mapping[str, type[Op]] = {
    kind.__name__: kind for kind in (Convolution, Linear, WindowSum, WindowMax, Shortcut, Flatten, Requantize, Real)
}
