"""Grids: which integers a quantizer computes with, and the values that they stand for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK = 2**14
"""Values that a processor's cache holds several times over in float64."""


class Grid(NamedTuple):
    """The values that a quantizer has: ``(code - zero_point) * scale``, or ``table[code] * scale``.

    Attributes:
        scale: Step of the grid, float32 or float64: one value, or one for each channel in a shape that broadcasts.
        levels: The codes that there are, such as ``range(-8, 8)``, or ``range(-15, 16, 2)`` for odd multiples.
        zero_point: The code that stands for zero, a whole number.
        table: Values in units of ``scale`` by code, for formats whose steps are not even, such as FP4; ``levels`` is
            then ``range(len(table))``.
        per_unit: Factor that brings values to steps, where a quantizer is defined by a product in the place of the
            division by ``scale``.
    """

    scale: Tensor
    levels: range
    zero_point: Tensor | int = 0
    table: Tensor | None = None
    per_unit: Tensor | None = None

    @property
    def ends(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        return self.levels[0], self.levels[-1]

    @property
    def bits(self) -> int:
        """Bits that tell the codes apart."""
        return (len(self.levels) - 1).bit_length()

    def codes(self, x: Tensor) -> Tensor:
        """The codes of the nearest values, ties to even: whole numbers in the dtype of ``x``.

        Args:
            x: Float values, of the dtype of the scale. The grid's steps are even.
        """
        assert self.table is None
        assert self.levels.step == 1
        steps = x / self.scale if self.per_unit is None else x * self.per_unit
        low, high = self.ends
        if not self._is_moved:
            return steps.clamp_(low, high).round_()
        zero = torch.as_tensor(self.zero_point, dtype=steps.dtype, device=steps.device)
        return steps.round_().maximum(low - zero).minimum(high - zero) + zero

    @property
    def _is_moved(self) -> bool:
        """Whether zero has another code than 0."""
        return isinstance(self.zero_point, Tensor) or self.zero_point != 0

    def dequantize(self, codes: Tensor) -> Tensor:
        """The values that codes stand for, in the dtype of the scale.

        Args:
            codes: Whole numbers of any dtype.
        """
        if self.table is not None:
            return self.table.to(self.scale)[codes.long()] * self.scale
        steps = codes.to(self.scale.dtype)
        return (
            steps if isinstance(self.zero_point, int) and not self.zero_point else steps - self.zero_point
        ) * self.scale

    def pack(self, codes: Tensor) -> Tensor:
        """Places of codes among the levels, from 0, as they are kept in memory; uint8, for at most 256 levels."""
        assert len(self.levels) <= 256
        return ((codes - self.levels.start) / self.levels.step).to(torch.uint8)

    def unpack(self, places: Tensor) -> Tensor:
        """The codes at given places among the levels, int16."""
        return places.to(torch.int16) * self.levels.step + self.levels.start


class Term(NamedTuple):
    """One summand of quantized weights.

    Attributes:
        codes: Whole numbers, (C, ...), in a floating-point dtype where they were just computed.
        grid: What they stand for.
    """

    codes: Tensor
    grid: Grid

    @property
    def integers(self) -> Tensor:
        """The codes as int16."""
        return self.codes.to(torch.int16)


class WeightGrid(NamedTuple):
    """Quantized weights as integers: a sum of codes, each on its grid.

    Attributes:
        terms: Usually one. Piecewise linear weights have three: centre, tail, and the tail's sign.
    """

    terms: tuple[Term, ...]

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The quantized weights: computed in the dtype of the scales, and rounded once.

        Args:
            dtype: Type of the result.
        """
        codes = [term.codes for term in self.terms]
        if any(isinstance(term.grid.zero_point, Tensor) for term in self.terms):
            return self._sum(codes, [term.grid.scale for term in self.terms]).to(dtype)
        result = torch.empty_like(codes[0], dtype=dtype)
        for out, *parts in in_blocks(result, *codes, *(term.grid.scale for term in self.terms)):
            out.copy_(self._sum(parts[: len(codes)], parts[len(codes) :]))
        return result

    def _sum(self, codes: Sequence[Tensor], scales: Sequence[Tensor]) -> Tensor:
        """The sum of all terms, of some rows."""
        parts = zip(self.terms, codes, scales, strict=True)
        first, *others = (term.grid._replace(scale=scale).dequantize(code) for term, code, scale in parts)
        for other in others:
            first = first + other
        return first

    @property
    def scales(self) -> int:
        """Count of the scales."""
        return sum(term.grid.scale.numel() for term in self.terms)


def one_grid(codes: Tensor, scale: Tensor, levels: range) -> WeightGrid:
    """Weights of a single term."""
    return WeightGrid((Term(codes, Grid(scale, levels)),))


def most_exact(device: torch.device) -> torch.dtype:
    """The dtype of scales that are more exact than float32, where the device has one."""
    return torch.float32 if device.type == "mps" else torch.float64


def in_blocks(x: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut tensors along the first axis into blocks that stay in a CPU's cache while several passes go over them.

    Args:
        x: Any shape, (C, ...).
        others: Tensors that broadcast over ``x``; those of a single row are in each block.
    """
    if x.device.type != "cpu" or x.numel() <= _BLOCK or len(x) < 2 or torch.compiler.is_compiling():
        return iter([(x, *others)])
    rows = max(1, _BLOCK * len(x) // x.numel())
    count = -(-len(x) // rows)
    parts = (
        torch.split(each, rows) if each.ndim == x.ndim and len(each) == len(x) else (each,) * count
        for each in (x, *others)
    )
    return zip(*parts, strict=True)
