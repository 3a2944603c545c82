"""Activation quantizers as settings: what a :class:`qra.quant.QuantScheme` holds and what a config specifies."""

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
"""State of an activation quantizer, by name: values that were calibrated or learned."""

_ADVICE = (
    "define grid(self, bit_width, state, dtype), which returns qra.quant.Grid(scale, range(LOWEST, HIGHEST + 1)), in "
    "the class that defines quantize"
)


class ActivationQuantizer(ABC):
    """Base class of activation quantizer settings. Subclasses are frozen dataclasses with the abstract methods.

    Each site has a state of a few numbers, which are either learned or constants found by calibration.
    """

    replaces_relu: ClassVar[bool] = True
    """Whether it replaces each ReLU; otherwise it quantizes the inputs of the modules in ``inputs_of``."""

    inputs_of: ClassVar[tuple[type[nn.Module], ...]] = (nn.Conv2d, nn.Linear, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
    """The modules whose inputs it quantizes, unless it replaces each ReLU."""

    quantizes_image: ClassVar[bool] = True
    """Whether it also quantizes the inputs of layers that take the image."""

    learned: ClassVar[bool] = True
    """Whether its state is learnable."""

    bit_widths: ClassVar[Collection[int]] = range(2, 9)
    """The supported bit widths, a subset of 2 to 8."""

    signed: ClassVar[frozenset[str]] = frozenset()
    """Names of learned values that may be zero or negative."""

    state_depends_on_bits: ClassVar[bool] = False
    """Whether values learned at one bit width are useless at another."""

    smallest: ClassVar[float] = 1e-8
    """Lower bound of learned values, except those in ``signed``."""

    replayable: ClassVar[bool] = False
    """Whether :meth:`quantize` always runs the same tensor operations, so that they can be recorded and replayed."""

    decay: float = 0.0
    """Weight of the sum of squares of the learned values in the training loss."""

    @abstractmethod
    def start(self, bit_width: int) -> dict[str, float]:
        """Return the state of one site before training or calibration, by name."""

    def start_below(self, bit_width: int, clip: float) -> dict[str, float]:
        """Like :meth:`start`, for a site that replaces a ReLU whose outputs are at most ``clip``, such as ReLU6."""
        return self.start(bit_width)

    @abstractmethod
    def quantize(self, x: Tensor, bit_width: int, state: State, gradient: GradientMode) -> Tensor:
        """Quantize activations.

        Args:
            x: Activations, any shape.
            bit_width: 2 to 8.
            state: State of the site, as in :meth:`start`: tensors if learned, else numbers.
            gradient: How to differentiate rounding and clipping.
        """

    def grid(self, bit_width: int, state: State, dtype: torch.dtype = torch.float32) -> Grid:
        """Return the grid of a site: its integer codes and the values they stand for.

        Args:
            bit_width: 2 to 8.
            state: State of the site, as in :meth:`start`.
            dtype: Type of the activations, float32 or float64.

        Raises:
            ValueError: If the quantizer does not define a grid.
        """
        raise self.no_grid()

    def no_grid(self) -> ValueError:
        """Return an error that says that the quantizer has no grid and how to define one."""
        return ValueError(f"{type(self).__name__} does not define which integers its activations are: {_ADVICE}")

    @property
    def has_grid(self) -> bool:
        """Whether :meth:`grid` describes :meth:`quantize`, that is, whether one class defines both."""
        owners = [next(kind for kind in type(self).__mro__ if name in vars(kind)) for name in ("grid", "quantize")]
        return owners[0] is owners[1]

    def estimator(self, bit_width: int) -> RangeEstimator | None:
        """Return an estimator for the activation range of one site, or None if calibration keeps the state."""
        return None

    def from_range(self, found: Range, bit_width: int) -> dict[str, float]:
        """Return the state of one site from its calibrated range."""
        raise NotImplementedError(f"{type(self).__name__} has an estimator, so it must define from_range")


@dataclass(frozen=True)
class PACT(ActivationQuantizer):
    """Clipping at a level learned for each activation site, in place of the ReLU (Choi et al. 2018, arXiv 1805.06085).

    Args:
        alpha: Initial clip level.
        decay: Weight of the sum of the squared clip levels in the training loss.
        percentile: Percentile of the float network's activations on the calibration images that the clip level starts
            from, in place of ``alpha``, if given.
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
    """A step size learned for each activation site, in place of the ReLU (LSQ, Esser et al. 2020, arXiv 1902.08153).

    Args:
        high: Initial largest level.
        percentile: Percentile of the float network's activations on the calibration images to use as the initial
            largest level; None to use ``high``.
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
        assert isinstance(step, Tensor)  # learned state is a tensor
        return lsq(x, step, bit_width, signed=False, features=x[0].numel(), gradient=gradient)

    def grid(self, bit_width: int, state: State, dtype: torch.dtype = torch.float32) -> Grid:
        return lsq_grid(_number(state["step"], dtype), bit_width, signed=False)

    def estimator(self, bit_width: int) -> RangeEstimator | None:
        return None if self.percentile is None else Percentile(self.percentile).estimator(bit_width)

    def from_range(self, found: Range, bit_width: int) -> dict[str, float]:
        return {"step": max(found.high / (2**bit_width - 1), self.smallest)}


@dataclass(frozen=True)
class CalibratedUniform(ActivationQuantizer):
    """Uniform quantization over a calibrated range, at the input of each convolution, linear and average pooling layer.

    The normalized image is quantized too. Where an input can be negative, as the normalized image can, the grid is
    symmetric (Fang et al. 2020, arXiv 2002.00104).

    Args:
        ranges: How the range is estimated.
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
    """Return a value of a quantizer's state as a detached tensor."""
    return torch.as_tensor(value).detach().to(dtype)
