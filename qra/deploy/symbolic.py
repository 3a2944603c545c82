"""Values while a network is lowered: weighted sums of what operations of a program have made."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from qra.deploy.bounds import LARGEST
from qra.deploy.ops import IMAGE, LOGITS, Op, Part, Real, Requantize
from qra.quant.grid import Grid

MOST_PARTS = 8
"""Longer sums become float values of their own."""

OTHER_SIZE = "export the network for the size of its images (--resolution)"
"""What to do where shapes do not fit."""

Kind = Literal["codes", "sums", "float"]


@dataclass(frozen=True)
class Made:
    """What an operation makes.

    Attributes:
        kind: Codes, sums of products of codes, or float values.
        shape: Shape without the batch.
    """

    kind: Kind
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """``sum of part times factor, plus offset``, in the units of the network.

    Attributes:
        parts: What is summed; at least one.
        factors: Factor of each part, float64: one value, or one for each channel, (C,).
        offset: float64: one value, one for each channel, or one for each channel and place, (C, H, W).
        shape: Shape without the batch: (C, H, W), or (C,).
    """

    parts: tuple[Part, ...]
    factors: tuple[Tensor, ...]
    offset: Tensor
    shape: tuple[int, ...]

    def scaled(self, factor: Tensor) -> Value:
        """Times one value, or one for each channel."""
        return replace(
            self,
            factors=tuple(own * factor for own in self.factors),
            offset=self.offset * (factor if self.offset.ndim < 2 or factor.ndim == 0 else factor[:, None, None]),
        )

    def moved(self, summand: Tensor) -> Value:
        """Plus one value, one for each channel, or one for each channel and place."""
        return replace(self, offset=add_offsets(self.offset, summand))

    def plus(self, other: Value) -> Value:
        """Plus a value of the same shape."""
        return replace(
            self,
            parts=self.parts + other.parts,
            factors=self.factors + other.factors,
            offset=add_offsets(self.offset, other.offset),
        )


def number(value: float) -> Tensor:
    """A number in float64."""
    return torch.tensor(value, dtype=torch.float64)


def add_offsets(first: Tensor, second: Tensor) -> Tensor:
    """The sum of two offsets, either of which may be of places."""
    rank = max(first.ndim, second.ndim)
    shaped = (value[:, None, None] if value.ndim == 1 and rank == 3 else value for value in (first, second))
    return sum(shaped, number(0.0))


class Builder:
    """The operations of a program so far.

    Attributes:
        ops: Operations in their order.
        made: What each makes, by name.

    Args:
        image_shape: Channels, height and width.
        exactly: Whether weights that are a sum of several terms stay one; else they become one term of 8 bits.
    """

    def __init__(self, image_shape: tuple[int, int, int], exactly: bool) -> None:
        self.exactly = exactly
        self.ops: list[Op] = []
        self.made: dict[str, Made] = {IMAGE: Made("codes", image_shape)}

    def add(self, op: Op, kind: Kind, shape: Sequence[int]) -> Value:
        """Append an operation; its result, as it is.

        Raises:
            ValueError: If it makes nothing, or more numbers than any network should.
        """
        if min(shape) < 1:
            raise ValueError(f"{op.name} makes no values of what it takes: {OTHER_SIZE}")
        if math.prod(shape) > LARGEST:
            raise ValueError(f"{op.name} makes {math.prod(shape):,} values of an image: that is too large a resolution")
        self.ops.append(op)
        self.made[op.name] = Made(kind, tuple(shape))
        return self.whole(op.name)

    def whole(self, name: str) -> Value:
        """All that an operation has made."""
        shape = self.made[name].shape
        return Value((Part(name, 0, shape[0]),), (number(1.0),), number(0.0), shape)

    def name(self, wanted: str) -> str:
        """A name that is not taken, of the signs that names in a program have."""
        wanted = re.sub(r"[^A-Za-z0-9_.]", "_", wanted)
        count, name = 2, wanted
        while name in self.made or name == LOGITS:
            name, count = f"{wanted}_{count}", count + 1
        return name

    def requantize(self, value: Value, grid: Grid, name: str) -> Value:
        """Round a value to the codes of a quantizer.

        Args:
            value: What is quantized.
            grid: The quantizer's, in float64: one scale.
            name: Name of the codes.
        """
        scale, zero_point = float(grid.scale), int(grid.zero_point)
        steps = self._short(value, f"{name}.sum").scaled(number(1 / scale))
        low, high = grid.ends
        op = Requantize(name, *_combined(steps, name), low, high, scale, zero_point)
        codes = self.add(op, "codes", value.shape)
        return codes.scaled(number(scale)).moved(number(-scale * zero_point))

    def real(self, value: Value, name: str, low: float | None = None, high: float | None = None) -> Value:
        """Make float values of a value, clipped."""
        value = self._short(value, f"{name}.sum") if len(value.parts) > MOST_PARTS else value
        return self.add(Real(name, *_combined(value, name), low, high), "float", value.shape)

    def _short(self, value: Value, name: str) -> Value:
        """The value itself, or float values where its sum is long."""
        if len(value.parts) <= MOST_PARTS:
            return value
        first = replace(value, parts=value.parts[:MOST_PARTS], factors=value.factors[:MOST_PARTS])
        rest = replace(value, parts=value.parts[MOST_PARTS:], factors=value.factors[MOST_PARTS:], offset=number(0.0))
        return self.real(first, self.name(name)).plus(self._short(rest, name))

    def by_channel(self, value: Value, name: str, rising: bool = False) -> Value:
        """What one operation made, times and plus numbers for each channel; of all other values, float values.

        Args:
            value: What an operation takes that moves values without computing sums of products.
            name: Name of this operation.
            rising: Whether the factors have to be positive, as where values are compared.
        """
        part, factor = value.parts[0], value.factors[0]
        made = self.made[part.source]
        whole = len(value.parts) == 1 and part == Part(part.source, 0, made.shape[0]) and made.kind != "sums"
        if whole and value.offset.ndim < 2 and (not rising or bool((factor > 0).all())):
            return value
        return self.real(value, self.name(f"{name}.sum"))

    def take(self, value: Value) -> tuple[str, Kind]:
        """Name and kind of the one thing that a value is made of."""
        source = value.parts[0].source
        return source, self.made[source].kind


def _combined(value: Value, name: str) -> tuple[tuple[Part, ...], Tensor, Tensor]:
    """Parts, factors and offset of an operation, rounded to float32 once."""
    channels = value.shape[0]
    factors = torch.stack([factor.expand(channels) for factor in value.factors]).float()
    offset = (value.offset.expand(channels) if value.offset.ndim < 2 else value.offset).float()
    if not (factors.isfinite().all() and offset.isfinite().all()):
        raise ValueError(
            f"{name}: a factor or a summand of it is beyond float32: a scale, a bias or a statistic before it is not "
            "sound, or what it takes is always zero"
        )
    return value.parts, factors.contiguous(), offset.contiguous()
