"""Weight quantizers as settings: what a :class:`qra.quant.QuantScheme` holds and what a config specifies."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from qra.checks import check_choice
from qra.precision import at_least_float32
from qra.quant.dorefa import DoReFaGradient, dorefa_grid, dorefa_weight
from qra.quant.grid import WeightGrid, one_grid
from qra.quant.lsq import lsq, lsq_grid, lsq_initial_step
from qra.quant.pwlq import (
    BreakpointMethod,
    Convention,
    Distribution,
    piecewise_linear_grid,
    piecewise_linear_quantize,
    search_breakpoint,
    weight_breakpoint,
)
from qra.quant.rounding import like, straight_through
from qra.quant.sawb import sawb_grid, sawb_weight
from qra.quant.uniform import symmetric_grid

_ADVICE = (
    "define grid(self, w, bit_width, learned), which returns qra.quant.WeightGrid((Term(codes, Grid(scale, "
    "range(LOWEST, HIGHEST + 1))),)), in the class that defines quantize, or instead of it"
)


class WeightQuantizer:
    """Base class of weight quantizer settings. Subclasses are frozen dataclasses with ``grid`` or ``quantize``."""

    learned: ClassVar[bool] = True
    """Whether its state is learnable."""

    bit_widths: ClassVar[Collection[int]] = range(2, 9)
    """The supported bit widths, a subset of 2 to 8."""

    state_depends_on_bits: ClassVar[bool] = False
    """Whether values learned at one bit width are useless at another."""

    smallest: ClassVar[float] = 1e-8
    """Lower bound of learned values, except those in ``signed``."""

    signed: ClassVar[frozenset[str]] = frozenset()
    """Names of learned values that may be zero or negative."""

    replayable: ClassVar[bool] = False
    """Whether :meth:`quantize` always runs the same tensor operations, so that they can be recorded and replayed."""

    def start(self, w: Tensor, bit_width: int) -> dict[str, Tensor]:
        """Return the initial learnable tensors of one layer, by name; by default there are none.

        Args:
            w: Weights of the layer, (C, ...).
            bit_width: 2 to 8.
        """
        return {}

    def grid(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> WeightGrid:
        """Return the grid of one layer's weights: their integer codes and the values they stand for.

        Args:
            w: Weights, (C, ...), without gradient.
            bit_width: 2 to 8.
            learned: Current values of the tensors from :meth:`start`.

        Raises:
            ValueError: If the quantizer does not define a grid.
        """
        raise self.no_grid()

    def no_grid(self) -> ValueError:
        """Return an error that says that the quantizer has no grid and how to define one."""
        return ValueError(f"{type(self).__name__} does not define which integers its weights are: {_ADVICE}")

    def quantize(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> Tensor:
        """Quantize the weights of one layer to the values of :meth:`grid`, with a straight-through gradient.

        Args:
            w: Weights, (C, ...).
            bit_width: 2 to 8.
            learned: Current values of the tensors from :meth:`start`.
        """
        w = at_least_float32(w)
        return straight_through(w, self.grid(w.detach(), bit_width, learned).dequantize(w.dtype))

    @property
    def has_grid(self) -> bool:
        """Whether :meth:`grid` describes :meth:`quantize`: one class defines both, or only the former is overridden."""
        owners = [next(kind for kind in type(self).__mro__ if name in vars(kind)) for name in ("grid", "quantize")]
        return owners[0] is not WeightQuantizer and owners[1] in (WeightQuantizer, owners[0])

    def check_trained(self) -> None:
        """Check that training reaches the tensors from :meth:`start`, if they are learned.

        Raises:
            ValueError: If :meth:`quantize` is inherited, whose gradient is that of the weights alone.
        """
        kind = type(self)
        starts, quantizes = kind.start is not WeightQuantizer.start, kind.quantize is not WeightQuantizer.quantize
        if self.learned and starts and not quantizes:
            raise ValueError(
                f"{kind.__name__} learns what its start returns, but no gradient reaches that through its grid: define "
                "quantize, which differentiates it, or set learned: ClassVar[bool] = False"
            )

    def layout(self, w: Tensor, bit_width: int) -> WeightGrid | None:
        """Return a grid with the terms, levels and scale shapes of that of ``w``, but other values; None without grids.

        Args:
            w: Weights, (C, ...), of which only the shape matters.
            bit_width: 2 to 8.
        """
        if not self.has_grid:
            return None
        ones = w.detach().new_ones(len(w), *[1] * (w.ndim - 1))
        return self.grid(ones, bit_width, self.start(ones, bit_width))

    def check_codes(self, w: Tensor, bit_width: int) -> None:
        """Reject codes that are not on the grid, and a grid with more levels than the bits can represent.

        Args:
            w: Weights, (C, ...), of which the first 8 channels are checked.
            bit_width: 2 to 8.

        Raises:
            ValueError: If either is found.
        """
        few = w.detach()[:8]
        terms = self.grid(few, bit_width, self.start(few, bit_width)).terms if self.has_grid else ()
        for codes, grid in terms:
            levels, name = grid.levels, type(self).__name__
            if len(terms) == 1 and grid.bits > bit_width:
                raise ValueError(f"{name} has {len(levels)} levels, more than {bit_width} bits can represent")
            places = (codes[codes.isfinite()].double() - levels.start) / levels.step
            if not ((places >= 0) & (places < len(levels)) & (places == places.round())).all():
                raise ValueError(
                    f"{name} gives weights of {bit_width} bits codes that are not among its levels, {levels}"
                )

    def for_last_layer(self) -> WeightQuantizer:
        """Return the quantizer of the last linear layer, whose outputs are the logits."""
        return self

    def stored_bits(self, bit_width: int) -> int:
        """Return the bits that a weight takes in memory."""
        return bit_width


@dataclass(frozen=True)
class DoReFa(WeightQuantizer):
    """DoReFa: ``tanh(w) / max|tanh(w)|``, rounded (Zhou et al. 2016, arXiv 1606.06160).

    Args:
        gradient: How the tanh is differentiated: exactly, as in the definition, or as the identity.
        scale_preserving: Layers whose weights are restored to their scale: none, all, or the last linear layer, which
            no batch normalization follows (otherwise its logits saturate the softmax, which causes gradient masking).
    """

    replayable: ClassVar[bool] = True

    gradient: DoReFaGradient = "through_tanh"
    scale_preserving: Literal["none", "last", "all"] = "last"

    def __post_init__(self) -> None:
        check_choice("gradient", self.gradient, get_args(DoReFaGradient))
        check_choice("scale_preserving", self.scale_preserving, ("none", "last", "all"))

    def quantize(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> Tensor:
        return dorefa_weight(w, bit_width, self.gradient, scale_preserving=self.scale_preserving == "all")

    def grid(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> WeightGrid:
        return dorefa_grid(w, bit_width, scale_preserving=self.scale_preserving == "all")

    def for_last_layer(self) -> DoReFa:
        return replace(self, scale_preserving="all") if self.scale_preserving == "last" else self


@dataclass(frozen=True)
class SAWB(WeightQuantizer):
    """Statistics-aware weight binning (Choi et al. 2018, arXiv 1807.06964)."""

    replayable: ClassVar[bool] = True

    def quantize(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> Tensor:
        return sawb_weight(w, bit_width)

    def grid(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> WeightGrid:
        return sawb_grid(w, bit_width)


@dataclass(frozen=True)
class LSQ(WeightQuantizer):
    """Learned step size, one for each layer (Esser et al. 2020, arXiv 1902.08153).

    For a layer whose weights are all zero, such as the last one of a new ViT, the initial step is 0.01.
    """

    replayable: ClassVar[bool] = True

    state_depends_on_bits: ClassVar[bool] = True

    def start(self, w: Tensor, bit_width: int) -> dict[str, Tensor]:
        if not w.any():
            return {"step": torch.full((), 0.01, dtype=at_least_float32(w).dtype, device=w.device)}
        return {"step": lsq_initial_step(w, bit_width, signed=True)}

    def quantize(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> Tensor:
        return lsq(w, learned["step"], bit_width, signed=True)

    def grid(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> WeightGrid:
        w = at_least_float32(w.detach())
        grid = lsq_grid(like(learned["step"].detach(), w), bit_width, signed=True)
        return one_grid(grid.codes(w), grid.scale, grid.levels)


@dataclass(frozen=True)
class Uniform(WeightQuantizer):
    """Uniform quantization over ±max|w| (Fang et al. 2020, arXiv 2002.00104, equation 1), straight through.

    Args:
        per_channel: Whether each output channel has its own range, or the layer has one.
    """

    replayable: ClassVar[bool] = True

    per_channel: bool = True

    def grid(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> WeightGrid:
        exact = w.detach().double()  # the ends of the range lie on rounding ties
        magnitude = exact.abs()
        max_abs = magnitude.flatten(1).amax(1) if self.per_channel else magnitude.max()
        grid = symmetric_grid(like(max_abs, exact), bit_width)
        return one_grid(grid.codes(exact), grid.scale, grid.levels)


@dataclass(frozen=True)
class PWLQ(WeightQuantizer):
    """Piecewise linear quantization (Fang et al. 2020, arXiv 2002.00104), which needs one bit more than its bit width.

    Args:
        breakpoint: How the breakpoint is found: the paper's closed form, bisection of the slope of the expected error,
            or a search for the least squared error.
        distribution: Distribution of the weights that the closed form and the bisection assume.
        overlapping: Whether the tails' grid covers the whole range (the paper's ablation).
        per_channel: Whether each output channel has its own breakpoint, or the layer has one.
        convention: Step of the centre, which differs between the paper and its released code.
    """

    replayable: ClassVar[bool] = True

    breakpoint: Literal["closed_form", "bisection", "search"] = "closed_form"
    distribution: Distribution = "gaussian"
    overlapping: bool = False
    per_channel: bool = True
    convention: Convention = "code"

    def __post_init__(self) -> None:
        check_choice("breakpoint", self.breakpoint, (*get_args(BreakpointMethod), "search"))
        check_choice("distribution", self.distribution, get_args(Distribution))
        check_choice("convention", self.convention, get_args(Convention))
        if self.overlapping and self.breakpoint == "closed_form":
            raise ValueError("overlapping has no closed form for its breakpoint: choose bisection or search")

    def stored_bits(self, bit_width: int) -> int:
        return bit_width + 1  # centre or tail

    def find_breakpoint(self, w: Tensor, bit_width: int) -> Tensor:
        """Return the breakpoint of each channel, (C, 1, ...), or of the layer, in the units of ``w``."""
        if self.breakpoint == "search":
            return search_breakpoint(
                w,
                bit_width,
                per_channel=self.per_channel,
                overlapping=self.overlapping,
                convention=self.convention,
            )
        return weight_breakpoint(
            w,
            per_channel=self.per_channel,
            distribution=self.distribution,
            method=self.breakpoint,
            overlapping=self.overlapping,
        )

    def quantize(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> Tensor:
        w, p = at_least_float32(w), self.find_breakpoint(w, bit_width)
        quantized = piecewise_linear_quantize(w, bit_width, p, overlapping=self.overlapping, convention=self.convention)
        return straight_through(w, quantized)

    def grid(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> WeightGrid:
        p = self.find_breakpoint(w, bit_width)
        return piecewise_linear_grid(w.detach(), bit_width, p, overlapping=self.overlapping, convention=self.convention)
