"""Grids: the integers that a quantizer computes with and the values they stand for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor


class Grid(NamedTuple):
    """The values of a quantizer: ``(code - zero_point) * scale``, or ``table[code] * scale``.

    Attributes:
        scale: Step of the grid, float32 or float64: one value, or one per channel in a shape that broadcasts.
        levels: All codes, such as ``range(-8, 8)``, or ``range(-15, 16, 2)`` for odd multiples.
        zero_point: The code that stands for zero, an integer.
        table: Values in units of ``scale`` by code, for non-uniform formats such as FP4; ``levels`` is then
            ``range(len(table))``.
        per_unit: Factor that converts values to steps, for quantizers that are defined by a multiplication instead of a
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
        """Bits needed to tell the codes apart."""
        return (len(self.levels) - 1).bit_length()

    def codes(self, x: Tensor) -> Tensor:
        """Return the codes of the nearest values, with ties to even, as integers in the dtype of ``x``.

        The grid must be uniform: without ``table``, and with consecutive codes.

        Args:
            x: Float values, in the dtype of the scale.
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
        """Whether the code of zero is not 0."""
        return isinstance(self.zero_point, Tensor) or self.zero_point != 0

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return the values that codes stand for, in the dtype of the scale.

        Args:
            codes: Integers of any dtype.
        """
        if self.table is not None:
            return self.table.to(self.scale)[codes.long()] * self.scale
        steps = codes.to(self.scale.dtype)
        return (steps - self.zero_point if self._is_moved else steps) * self.scale

    def pack(self, codes: Tensor) -> Tensor:
        """Return the indices of codes among the levels, from 0, for storage: uint8, for at most 256 levels."""
        assert len(self.levels) <= 256
        return ((codes - self.levels.start) / self.levels.step).to(torch.uint8)

    def unpack(self, places: Tensor) -> Tensor:
        """Return the codes at given indices among the levels, int16."""
        return places.to(torch.int16) * self.levels.step + self.levels.start


class Term(NamedTuple):
    """One summand of quantized weights.

    Attributes:
        codes: Integers, (C, ...), in a floating-point dtype if they were just computed.
        grid: Grid of the codes.
    """

    codes: Tensor
    grid: Grid

    @property
    def integers(self) -> Tensor:
        """The codes as int16."""
        return self.codes.to(torch.int16)


class WeightGrid(NamedTuple):
    """Quantized weights as integers: a sum of terms, each with codes on its own grid.

    Attributes:
        terms: Usually one. Piecewise linear weights have three: the centre, the tails, and the sign of the tails.
    """

    terms: tuple[Term, ...]

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Return the quantized weights, computed in the dtype of the scales and rounded once.

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
        """Return the sum of all terms for some of the rows."""
        parts = zip(self.terms, codes, scales, strict=True)
        return reduce(add, (term.grid._replace(scale=scale).dequantize(code) for term, code, scale in parts))

    @property
    def scales(self) -> int:
        """Number of scales."""
        return sum(term.grid.scale.numel() for term in self.terms)


def one_grid(codes: Tensor, scale: Tensor, levels: range) -> WeightGrid:
    """Return weights of a single term."""
    return WeightGrid((Term(codes, Grid(scale, levels)),))


def most_exact(device: torch.device) -> torch.dtype:
    """Return the dtype for scales: float64, or float32 on a device without it."""
    return torch.float32 if device.type == "mps" else torch.float64


def is_one_block(x: Tensor, size: int) -> bool:
    """Whether :func:`in_blocks` leaves a tensor whole: elsewhere than on a CPU, and in compiled code, which fuses."""
    return x.device.type != "cpu" or x.numel() <= size or len(x) < 2 or torch.compiler.is_compiling()


def in_blocks(x: Tensor, *others: Tensor, size: int = 2**14) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors along the first axis into blocks that stay in a CPU's cache during several passes over them.

    Args:
        x: Any shape, (C, ...).
        others: Tensors that broadcast over ``x``. Those of a single row are part of every block.
        size: Values of ``x`` in a block; by default a number that fits the cache several times over in float64.
    """
    if is_one_block(x, size):
        return iter([(x, *others)])
    rows = max(1, size * len(x) // x.numel())
    count = -(-len(x) // rows)
    parts = (
        torch.split(each, rows) if each.ndim == x.ndim and len(each) == len(x) else (each,) * count
        for each in (x, *others)
    )
    return zip(*parts, strict=True)
