"""Weight quantizers as settings: what a :class:`qra.quant.QuantScheme` holds, and what a config writes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from torch import Tensor

from qra.quant.dorefa import DoReFaGradient, dorefa_weight
from qra.quant.lsq import lsq, lsq_initial_step
from qra.quant.pwlq import (
    BreakpointMethod,
    Convention,
    Distribution,
    piecewise_linear_quantize,
    search_breakpoint,
    weight_breakpoint,
)
from qra.quant.rounding import check_choice, straight_through
from qra.quant.sawb import sawb_weight
from qra.quant.uniform import uniform_symmetric


class WeightQuantizer(ABC):
    """Settings of a weight quantizer; a subclass is a frozen dataclass that writes :meth:`quantize`."""

    bit_widths: ClassVar[Collection[int]] = range(2, 9)
    """The bit widths that it can quantize to, out of 2 to 8."""

    state_depends_on_bits: ClassVar[bool] = False
    """Whether what is learned at one bit width is useless at another."""

    smallest: ClassVar[float] = 1e-8
    """Learned values are kept at least this large."""

    signed: ClassVar[frozenset[str]] = frozenset()
    """Names of learned values that may be zero or negative."""

    replayable: ClassVar[bool] = False
    """Whether :meth:`quantize` does the same to tensors each time, so that it may be recorded and replayed."""

    def start(self, w: Tensor, bit_width: int) -> dict[str, Tensor]:
        """Learnable tensors of one layer, by name, with the values that they start from; none if not overridden.

        Args:
            w: Weights of the layer, (C, ...).
            bit_width: 2 to 8.
        """
        return {}

    @abstractmethod
    def quantize(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> Tensor:
        """Quantize the weights of one layer, differentiably.

        Args:
            w: Weights, (C, ...).
            bit_width: 2 to 8.
            learned: The tensors that :meth:`start` made, as training left them.
        """

    def for_last_layer(self) -> WeightQuantizer:
        """The quantizer of the last linear layer, whose outputs are the logits."""
        return self

    def stored_bits(self, bit_width: int) -> int:
        """Bits that a weight takes in memory."""
        return bit_width


@dataclass(frozen=True)
class DoReFa(WeightQuantizer):
    """DoReFa: ``tanh(w) / max|tanh(w)|``, rounded (Zhou et al. 2016, arXiv 1606.06160).

    Args:
        gradient: Through the tanh, by definition, or the identity.
        scale_preserving: Which layers get the scale of their weights back: none, all, or the last linear layer, which
            no batch normalization follows (logits out of proportion saturate the softmax and so hide gradients).
    """

    replayable: ClassVar[bool] = True

    gradient: DoReFaGradient = "through_tanh"
    scale_preserving: Literal["none", "last", "all"] = "last"

    def __post_init__(self) -> None:
        check_choice("gradient", self.gradient, get_args(DoReFaGradient))
        check_choice("scale_preserving", self.scale_preserving, ("none", "last", "all"))

    def quantize(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> Tensor:
        return dorefa_weight(w, bit_width, self.gradient, scale_preserving=self.scale_preserving == "all")

    def for_last_layer(self) -> DoReFa:
        return replace(self, scale_preserving="all") if self.scale_preserving == "last" else self


@dataclass(frozen=True)
class SAWB(WeightQuantizer):
    """Statistics-aware weight binning (Choi et al. 2018, arXiv 1807.06964)."""

    replayable: ClassVar[bool] = True

    def quantize(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> Tensor:
        return sawb_weight(w, bit_width)


@dataclass(frozen=True)
class LSQ(WeightQuantizer):
    """Learned step size, one for each layer (Esser et al. 2020, arXiv 1902.08153)."""

    replayable: ClassVar[bool] = True

    state_depends_on_bits: ClassVar[bool] = True

    def start(self, w: Tensor, bit_width: int) -> dict[str, Tensor]:
        return {"step": lsq_initial_step(w, bit_width, signed=True)}

    def quantize(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> Tensor:
        return lsq(w, learned["step"], bit_width, signed=True)


@dataclass(frozen=True)
class Uniform(WeightQuantizer):
    """Even steps over ±max|w| (Fang et al. 2020, arXiv 2002.00104, equation 1), straight through.

    Args:
        per_channel: A range for each output channel, or one for the layer.
    """

    replayable: ClassVar[bool] = True

    per_channel: bool = True

    def quantize(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> Tensor:
        exact = w.detach().double()  # the ends of the range lie on rounding ties
        magnitude = exact.abs()
        max_abs = magnitude.flatten(1).amax(1) if self.per_channel else magnitude.max()
        return straight_through(w, uniform_symmetric(exact, bit_width, max_abs).to(w.dtype))


@dataclass(frozen=True)
class PWLQ(WeightQuantizer):
    """Piecewise linear quantization (Fang et al. 2020, arXiv 2002.00104), which needs one bit more than its bit width.

    Args:
        breakpoint: The paper's closed form, bisection of the expected error's slope, or a search for the least squared
            error.
        distribution: That the closed form and the bisection take the weights to have.
        overlapping: Let the tails' grid cover all of the range (the paper's ablation).
        per_channel: A breakpoint for each output channel, or one for the layer.
        convention: Step of the centre, in which the paper and its released code differ.
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
        """The breakpoint of each channel, (C, 1, ...), or of the layer, in the units of ``w``."""
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
        quantized = piecewise_linear_quantize(
            w.detach(),
            bit_width,
            self.find_breakpoint(w, bit_width),
            overlapping=self.overlapping,
            convention=self.convention,
        )
        return straight_through(w, quantized)


@dataclass(frozen=True)
class Fixed(WeightQuantizer):
    """Weights that hold their quantized values already: what quantization after training leaves.

    Args:
        quantizer: Made the values.
        bias_corrected: Whether each channel was moved and stretched to the mean and spread of the original weights
            (Fang et al. 2020, section 3.4).
    """

    replayable: ClassVar[bool] = True

    quantizer: WeightQuantizer
    bias_corrected: bool = False

    def quantize(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> Tensor:
        return w

    def stored_bits(self, bit_width: int) -> int:
        return self.quantizer.stored_bits(bit_width)
