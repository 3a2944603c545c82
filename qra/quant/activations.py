"""Activation quantizers as settings: what a :class:`qra.quant.QuantScheme` holds, and what a config writes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from qra.checks import check_in
from qra.quant.grid import Grid
from qra.quant.lsq import lsq, lsq_grid
from qra.quant.pact import pact, pact_grid
from qra.quant.ranges import LeastSquares, MinMax, Percentile, Range, RangeEstimator, RangeSettings, TopK
from qra.quant.rounding import GradientMode
from qra.quant.uniform import symmetric_grid, uniform_symmetric, uniform_unsigned, unsigned_grid

__all__ = [
    "PACT",
    "ActivationQuantizer",
    "CalibratedUniform",
    "LSQActivation",
    "LeastSquares",  # this and the other settings of ranges, for class paths in old configs
    "MinMax",
    "Percentile",
    "RangeSettings",
    "State",
    "TopK",
]

State = Mapping[str, Tensor | float]
"""What an activation quantizer was calibrated to or has learned, by name."""

_ADVICE = (
    "write grid(self, bit_width, state, dtype), which returns qra.quant.Grid(scale, range(LOWEST, HIGHEST + 1)), in "
    "the class that writes quantize"
)


class ActivationQuantizer(ABC):
    """Settings of an activation quantizer; a subclass is a frozen dataclass that writes the abstract methods.

    Its state is a few numbers for each site: learnable, or constants that calibration finds.
    """

    replaces_relu: ClassVar[bool] = True
    """Whether it takes the place of each ReLU, or sits at the input of each convolution, linear and average pooling."""

    inputs_of: ClassVar[tuple[type[nn.Module], ...]] = (nn.Conv2d, nn.Linear, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
    """The modules at whose inputs it sits, unless it takes the place of each ReLU."""

    quantizes_image: ClassVar[bool] = True
    """Whether it sits at the inputs of layers that take the image, too."""

    learned: ClassVar[bool] = True
    """Whether its state is learnable."""

    bit_widths: ClassVar[Collection[int]] = range(2, 9)
    """The bit widths that it can quantize to, out of 2 to 8."""

    signed: ClassVar[frozenset[str]] = frozenset()
    """Names of learned values that may be zero or negative."""

    state_depends_on_bits: ClassVar[bool] = False
    """Whether what is learned at one bit width is useless at another."""

    smallest: ClassVar[float] = 1e-8
    """Learned values are kept at least this large."""

    replayable: ClassVar[bool] = False
    """Whether :meth:`quantize` does the same to tensors each time, so that it may be recorded and replayed."""

    decay: float = 0.0
    """Factor of the sum of squares of its learned values in the training loss."""

    @abstractmethod
    def start(self, bit_width: int) -> dict[str, float]:
        """The state of one site before any training or calibration, by name."""

    def start_below(self, bit_width: int, clip: float) -> dict[str, float]:
        """The same in the place of a ReLU whose outputs are at most ``clip``, such as ReLU6."""
        return self.start(bit_width)

    @abstractmethod
    def quantize(self, x: Tensor, bit_width: int, state: State, gradient: GradientMode) -> Tensor:
        """Quantize activations.

        Args:
            x: Activations, any shape.
            bit_width: 2 to 8.
            state: What :meth:`start` made, as training or calibration left it: tensors if learned, else numbers.
            gradient: How to differentiate.
        """

    def grid(self, bit_width: int, state: State, dtype: torch.dtype = torch.float32) -> Grid:
        """The integers that activations become, and what they stand for.

        Args:
            bit_width: 2 to 8.
            state: What :meth:`start` made, as training or calibration left it.
            dtype: Type of the activations, float32 or float64.

        Raises:
            ValueError: If the quantizer says no grid.
        """
        raise self.no_grid()

    def no_grid(self) -> ValueError:
        """The error that says that the quantizer has no grid, and how to write one."""
        return ValueError(f"{type(self).__name__} does not say which integers activations are: {_ADVICE}")

    @property
    def has_grid(self) -> bool:
        """Whether :meth:`grid` is that of :meth:`quantize`: both are written by one class."""
        owners = [next(kind for kind in type(self).__mro__ if name in vars(kind)) for name in ("grid", "quantize")]
        return owners[0] is owners[1]

    def estimator(self, bit_width: int) -> RangeEstimator | None:
        """Collects the range of one site in calibration; None if calibration is not to change the state."""
        return None

    def from_range(self, found: Range, bit_width: int) -> dict[str, float]:
        """The state of one site from its calibrated range."""
        raise NotImplementedError(f"{type(self).__name__} has an estimator, so it must write from_range")


@dataclass(frozen=True)
class PACT(ActivationQuantizer):
    """A clip level learned for each activation site (Choi et al. 2018, arXiv 1805.06085), in the place of the ReLU.

    Args:
        alpha: Clip level to start from.
        decay: Factor of the sum of the squared clip levels in the training loss.
        percentile: Start instead from this percentile of the float network's activations on the calibration images.
    """

    alpha: float = 10.0
    decay: float = 2e-4
    percentile: float | None = None

    smallest: ClassVar[float] = 1e-3

    replayable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_in("alpha", self.alpha, "(0, inf)")
        check_in("decay", self.decay, "[0, inf)")
        self.estimator(8)

    def start(self, bit_width: int) -> dict[str, float]:
        return {"alpha": self.alpha}

    def start_below(self, bit_width: int, clip: float) -> dict[str, float]:
        return {"alpha": min(self.alpha, clip)}

    def quantize(self, x: Tensor, bit_width: int, state: State, gradient: GradientMode) -> Tensor:
        return pact(x, state["alpha"], bit_width, gradient)

    def grid(self, bit_width: int, state: State, dtype: torch.dtype = torch.float32) -> Grid:
        return pact_grid(_number(state["alpha"], dtype), bit_width)

    def estimator(self, bit_width: int) -> RangeEstimator | None:
        return None if self.percentile is None else Percentile(self.percentile).estimator(bit_width)

    def from_range(self, found: Range, bit_width: int) -> dict[str, float]:
        return {"alpha": max(found.high, self.smallest)}


@dataclass(frozen=True)
class LSQActivation(ActivationQuantizer):
    """A step learned for each activation site (Esser et al. 2020, arXiv 1902.08153), in the place of the ReLU.

    Args:
        high: Largest level to start from.
        percentile: Start instead with this percentile of the float network's activations on the calibration images as
            the largest level; None to start from ``high``.
    """

    high: float = 10.0
    percentile: float | None = 99.9

    state_depends_on_bits: ClassVar[bool] = True

    replayable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_in("high", self.high, "(0, inf)")
        self.estimator(8)

    def start(self, bit_width: int) -> dict[str, float]:
        return {"step": self.high / (2**bit_width - 1)}

    def start_below(self, bit_width: int, clip: float) -> dict[str, float]:
        return {"step": min(self.high, clip) / (2**bit_width - 1)}

    def quantize(self, x: Tensor, bit_width: int, state: State, gradient: GradientMode) -> Tensor:
        step = state["step"]
        assert isinstance(step, Tensor)  # it is learned
        return lsq(x, step, bit_width, signed=False, features=x[0].numel(), gradient=gradient)

    def grid(self, bit_width: int, state: State, dtype: torch.dtype = torch.float32) -> Grid:
        return lsq_grid(_number(state["step"], dtype), bit_width, signed=False)

    def estimator(self, bit_width: int) -> RangeEstimator | None:
        return None if self.percentile is None else Percentile(self.percentile).estimator(bit_width)

    def from_range(self, found: Range, bit_width: int) -> dict[str, float]:
        return {"step": max(found.high / (2**bit_width - 1), self.smallest)}


@dataclass(frozen=True)
class CalibratedUniform(ActivationQuantizer):
    """Even steps over a range that calibration finds, at the input of each convolution, linear and average pooling.

    The normalized image is quantized too; where it or another input goes below zero, the grid is symmetric (Fang et
    al. 2020, arXiv 2002.00104).

    Args:
        ranges: How the range is found.
    """

    ranges: RangeSettings = field(default_factory=TopK)

    replayable: ClassVar[bool] = True
    replaces_relu: ClassVar[bool] = False
    learned: ClassVar[bool] = False

    def start(self, bit_width: int) -> dict[str, float]:
        return {"low": float("nan"), "high": float("nan")}

    def quantize(self, x: Tensor, bit_width: int, state: State, gradient: GradientMode) -> Tensor:
        found = Range(float(state["low"]), float(state["high"]))
        quantizer = uniform_symmetric if found.signed else uniform_unsigned
        return quantizer(x, bit_width, found.max_abs, gradient)

    def grid(self, bit_width: int, state: State, dtype: torch.dtype = torch.float32) -> Grid:
        found = Range(float(state["low"]), float(state["high"]))
        return (symmetric_grid if found.signed else unsigned_grid)(_number(found.max_abs, dtype), bit_width)

    def estimator(self, bit_width: int) -> RangeEstimator:
        return self.ranges.estimator(bit_width)

    def from_range(self, found: Range, bit_width: int) -> dict[str, float]:
        return found._asdict()


def _number(value: Tensor | float, dtype: torch.dtype) -> Tensor:
    """A value of a quantizer's state as a tensor of its own."""
    return torch.as_tensor(value).detach().to(dtype)
