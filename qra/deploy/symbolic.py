"""Values during lowering: weighted sums of the results of a program's operations."""

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
"""Largest number of parts of a sum; parts beyond it are first summed to float values."""

OTHER_SIZE = "export the network for the size of its images (--resolution)"
"""Advice where shapes do not fit."""

Kind = Literal["codes", "sums", "float"]


@dataclass(frozen=True)
class Made:
    """Result of an operation.

    Attributes:
        kind: Codes, sums of products of codes, or float values.
        shape: Shape without the batch dimension.
    """

    kind: Kind
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """The sum of parts times factors, plus an offset, in the units of the network.

    Attributes:
        parts: The parts; at least one.
        factors: Factor of each part, float64: one value, or one per channel, (C,).
        offset: float64: one value, one per channel, or one per channel and position, (C, H, W).
        shape: Shape without the batch dimension: (C, H, W) or (C,).
    """

    parts: tuple[Part, ...]
    factors: tuple[Tensor, ...]
    offset: Tensor
    shape: tuple[int, ...]

    def scaled(self, factor: Tensor) -> Value:
        """Multiply by one value, or by one per channel."""
        return replace(
            self,
            factors=tuple(own * factor for own in self.factors),
            offset=self.offset * (factor if self.offset.ndim < 2 or factor.ndim == 0 else factor[:, None, None]),
        )

    def moved(self, summand: Tensor) -> Value:
        """Add one value, one per channel, or one per channel and position."""
        return replace(self, offset=add_offsets(self.offset, summand))

    def plus(self, other: Value) -> Value:
        """Add a value of the same shape."""
        return replace(
            self,
            parts=self.parts + other.parts,
            factors=self.factors + other.factors,
            offset=add_offsets(self.offset, other.offset),
        )


def number(value: float) -> Tensor:
    """Return a number as a float64 tensor."""
    return torch.tensor(value, dtype=torch.float64)


def add_offsets(first: Tensor, second: Tensor) -> Tensor:
    """Add two offsets, either of which may be per position."""
    rank = max(first.ndim, second.ndim)
    shaped = (value[:, None, None] if value.ndim == 1 and rank == 3 else value for value in (first, second))
    return sum(shaped, number(0.0))


class Builder:
    """The operations of a program so far.

    Attributes:
        ops: Operations in order.
        made: Result of each operation, by name.

    Args:
        image_shape: Channels, height and width.
        exactly: Whether weights that are a sum of several terms remain one; otherwise they become one term of 8 bits.
    """

    def __init__(self, image_shape: tuple[int, int, int], exactly: bool) -> None:
        self.exactly = exactly
        self.ops: list[Op] = []
        self.made: dict[str, Made] = {IMAGE: Made("codes", image_shape)}

    def add(self, op: Op, kind: Kind, shape: Sequence[int]) -> Value:
        """Append an operation and return its result as a value.

        Raises:
            ValueError: If the result is empty, or too large for any network.
        """
        if min(shape) < 1:
            raise ValueError(f"{op.name} has an empty output: {OTHER_SIZE}")
        if math.prod(shape) > LARGEST:
            raise ValueError(f"{op.name} makes {math.prod(shape):,} values per image: the resolution is too large")
        self.ops.append(op)
        self.made[op.name] = Made(kind, tuple(shape))
        return self.whole(op.name)

    def whole(self, name: str) -> Value:
        """Return the whole result of an operation."""
        shape = self.made[name].shape
        return Value((Part(name, 0, shape[0]),), (number(1.0),), number(0.0), shape)

    def name(self, wanted: str) -> str:
        """Return an unused name, with only the characters that are allowed in names of a program."""
        wanted = re.sub(r"[^A-Za-z0-9_.]", "_", wanted)
        count, name = 2, wanted
        while name in self.made or name == LOGITS:
            name, count = f"{wanted}_{count}", count + 1
        return name

    def requantize(self, value: Value, grid: Grid, name: str) -> Value:
        """Round a value to the codes of a quantizer.

        Args:
            value: The value to quantize.
            grid: Grid of the quantizer in float64, with one scale.
            name: Name of the codes.
        """
        scale, zero_point = float(grid.scale), int(grid.zero_point)
        steps = self._short(value, f"{name}.sum").scaled(number(1 / scale))
        low, high = grid.ends
        op = Requantize(name, *_combined(steps, name), low, high, scale, zero_point)
        codes = self.add(op, "codes", value.shape)
        return codes.scaled(number(scale)).moved(number(-scale * zero_point))

    def real(self, value: Value, name: str, low: float | None = None, high: float | None = None) -> Value:
        """Compute a value as float values, clipped."""
        value = self._short(value, f"{name}.sum") if len(value.parts) > MOST_PARTS else value
        return self.add(Real(name, *_combined(value, name), low, high), "float", value.shape)

    def _short(self, value: Value, name: str) -> Value:
        """Return a value, with the first parts of a long sum summed to float values."""
        if len(value.parts) <= MOST_PARTS:
            return value
        first = replace(value, parts=value.parts[:MOST_PARTS], factors=value.factors[:MOST_PARTS])
        rest = replace(value, parts=value.parts[MOST_PARTS:], factors=value.factors[MOST_PARTS:], offset=number(0.0))
        return self.real(first, self.name(name)).plus(self._short(rest, name))

    def by_channel(self, value: Value, name: str, rising: bool = False) -> Value:
        """Return a value that is one result with per-channel factors and offsets as it is; compute others as float.

        Args:
            value: Input of an operation that moves values without computing sums of products.
            name: Name of that operation.
            rising: Whether the factors must be positive, as for comparisons.
        """
        rises = bool((value.factors[0] > 0).all())
        if self.kind_of(value) in ("codes", "float") and value.offset.ndim < 2 and (rises or not rising):
            return value
        return self.real(value, self.name(f"{name}.sum"))

    def kind_of(self, value: Value) -> Kind | None:
        """Return the kind of the operation result that a value is a multiple of; None if it is a part or a sum."""
        source = value.parts[0].source
        made = self.made[source]
        return made.kind if value.parts == (Part(source, 0, made.shape[0]),) else None

    def take(self, value: Value) -> tuple[str, Kind]:
        """Return the name and kind of the operation result that a value consists of."""
        source = value.parts[0].source
        return source, self.made[source].kind


def _combined(value: Value, name: str) -> tuple[tuple[Part, ...], Tensor, Tensor]:
    """Return the parts, factors and offset of an operation, rounded once to float32."""
    channels = value.shape[0]
    factors = torch.stack([factor.expand(channels) for factor in value.factors]).float()
    offset = (value.offset.expand(channels) if value.offset.ndim < 2 else value.offset).float()
    if not (factors.isfinite().all() and offset.isfinite().all()):
        raise ValueError(
            f"{name}: a factor or a summand of it is beyond float32: a scale, bias or statistic before it is "
            "invalid, or its input is always zero"
        )
    return value.parts, factors.contiguous(), offset.contiguous()
