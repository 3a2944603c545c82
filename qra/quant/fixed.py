"""Weights after post-training quantization: their codes and scales are the state that a checkpoint stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from qra.quant.grid import Grid, Term, WeightGrid, most_exact
from qra.quant.pwlq import correction
from qra.quant.rounding import straight_through
from qra.quant.weights import WeightQuantizer


@dataclass(frozen=True)
class Fixed(WeightQuantizer):
    """Weights of one layer that post-training quantization has replaced by codes.

    The state consists of the codes of each term of the grid, as indices into its levels, and its scales, in the
    precision of the weights. For a quantizer without grids the state is empty, and the layer's weights hold the
    quantized values.

    Args:
        quantizer: Quantizer that produced the codes.
        bias_corrected: Whether each channel was shifted and scaled to the mean and spread of the original weights
            (Fang et al. 2020, section 3.4).
    """

    replayable: ClassVar[bool] = True
    learned: ClassVar[bool] = False

    quantizer: WeightQuantizer
    bias_corrected: bool = False

    @property
    def has_grid(self) -> bool:
        return self.quantizer.has_grid

    def start(self, w: Tensor, bit_width: int) -> dict[str, Tensor]:
        """Return a state of the right shapes, to be filled by calibration or from a checkpoint."""
        layout = self.layout(w, bit_width)
        if layout is None:
            return {}
        self._grids(w, bit_width)
        state = {}
        for number, (_, grid) in enumerate(layout.terms):
            state[f"codes_{number}"] = torch.zeros_like(w, dtype=torch.uint8)
            state[f"scale_{number}"] = torch.zeros_like(grid.scale, dtype=w.dtype)
        return state

    def state(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the state that represents the given weights, quantized; empty without grids.

        Args:
            w: Float weights, (C, ...).
            bit_width: 2 to 8.
            learned: State of the quantizer, initialized from ``w``.
        """
        if not self.has_grid:
            return {}
        grid = self.quantizer.grid(w, bit_width, learned)
        state = {}
        for number, (codes, own) in enumerate((_corrected(grid, w) if self.bias_corrected else grid).terms):
            state[f"codes_{number}"] = own.pack(codes)
            state[f"scale_{number}"] = own.scale.to(w.dtype)
        return state

    def layout(self, w: Tensor, bit_width: int) -> WeightGrid | None:
        found = self.quantizer.layout(w, bit_width)
        return _corrected(found, found.terms[0].codes) if found is not None and self.bias_corrected else found

    def _grids(self, w: Tensor, bit_width: int) -> tuple[Grid, ...]:
        """Return the grids of the terms, without their scales. They are cached, because some are slow to find."""
        known: dict[int, tuple[Grid, ...]] = vars(self).setdefault("_known", {})
        if bit_width not in known:
            layout = self.layout(w, bit_width)
            known[bit_width] = tuple(grid for _, grid in layout.terms) if layout else ()
        return known[bit_width]

    def check(self, w: Tensor, bit_width: int, state: Mapping[str, Tensor]) -> None:
        """Reject a state that calibration cannot have produced.

        Raises:
            ValueError: If codes lie outside the grid, or scales are not finite.
        """
        for number, grid in enumerate(self._grids(w, bit_width)):
            if state[f"codes_{number}"].max() >= len(grid.levels):
                raise ValueError(f"has codes out of the range of {bit_width} bits: the file is damaged")
            if not state[f"scale_{number}"].isfinite().all():
                raise ValueError("has scales that are not finite: the file is damaged")

    def grid(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> WeightGrid:
        if not self.has_grid:
            return self.quantizer.grid(w, bit_width, learned)  # raises an error that says what is missing
        terms = []
        for number, grid in enumerate(self._grids(w, bit_width)):
            own = grid._replace(scale=learned[f"scale_{number}"].to(most_exact(w.device)))
            terms.append(Term(own.unpack(learned[f"codes_{number}"]), own))
        return WeightGrid(tuple(terms))

    def quantize(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> Tensor:
        return straight_through(w, self.grid(w, bit_width, learned).dequantize(w.dtype)) if self.has_grid else w

    def for_last_layer(self) -> Fixed:
        return replace(self, quantizer=self.quantizer.for_last_layer())

    def stored_bits(self, bit_width: int) -> int:
        return self.quantizer.stored_bits(bit_width)


def _corrected(grid: WeightGrid, w: Tensor) -> WeightGrid:
    """Shift and scale a grid per channel: its scales change, and a constant is added as one more term."""
    shape = (-1, *[1] * (w.ndim - 1))
    stretch, offset = (value.view(shape) for value in correction(w, grid.dequantize(w.dtype)))
    terms = [Term(codes, own._replace(scale=own.scale * stretch)) for codes, own in grid.terms]
    return WeightGrid((*terms, Term(torch.ones_like(terms[0].codes), Grid(offset, range(1, 2)))))
