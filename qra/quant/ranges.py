"""Activation ranges, estimated batch by batch in calibration."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from qra.checks import check_choice, check_count, check_in
from qra.quant.rounding import check_bit_width
from qra.quant.uniform import uniform_symmetric, uniform_unsigned

TopKScope = Literal["per_batch", "global"]


class Range(NamedTuple):
    """The clipping range of a quantizer: unsigned on [0, high] if ``low >= 0``, else symmetric on ±max_abs."""

    low: float
    high: float

    @property
    def signed(self) -> bool:
        return self.low < 0

    @property
    def max_abs(self) -> float:
        return max(-self.low, self.high)


class RangeEstimator(Protocol):
    """Interface of range estimators for calibration: they take in batches, then return a range."""

    def update(self, x: Tensor) -> None:
        """Add one batch of activations, any shape."""
        ...

    def range(self) -> Range:
        """Return the range of the batches so far.

        Raises:
            ValueError: If there were no batches, or values were not finite.
        """
        ...


class RangeSettings(ABC):
    """How calibration estimates a range. Subclasses are frozen dataclasses that implement the two abstract methods."""

    @abstractmethod
    def gather(self, seen: Any, x: Tensor) -> Any:
        """Return what must be kept of all batches so far.

        Args:
            seen: What this method returned for the previous batches; None at first.
            x: The next batch, flat, float32 or float64, without gradient.
        """

    @abstractmethod
    def find(self, seen: Any, bit_width: int) -> tuple[Tensor | float, Tensor | float]:
        """Return both ends of the range.

        Args:
            seen: What :meth:`gather` returned.
            bit_width: 2 to 8.
        """

    def estimator(self, bit_width: int) -> RangeEstimator:
        """Return an estimator of the range of one site.

        Args:
            bit_width: 2 to 8.
        """
        check_bit_width(bit_width)
        return _Estimator(self, bit_width)


class _Estimator:
    """Range estimator that follows given settings."""

    def __init__(self, settings: RangeSettings, bit_width: int) -> None:
        self._settings, self._bit_width = settings, bit_width
        self._seen: Any = None

    def update(self, x: Tensor) -> None:
        self._seen = self._settings.gather(self._seen, x.detach().flatten().float())

    def range(self) -> Range:
        if self._seen is None:
            raise ValueError("no range has been calibrated yet: run the calibration images first")
        return _range(*self._settings.find(self._seen, self._bit_width))


def _range(low: Tensor | float, high: Tensor | float) -> Range:
    found = Range(float(low), float(high))
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        raise ValueError(f"activations range over [{found.low}, {found.high}]: the network's outputs are not finite")
    return found


@dataclass(frozen=True)
class MinMax(RangeSettings):
    """The smallest and the largest value, times ``clip``.

    Args:
        clip: Factor applied to both ends, above 0 and at most 1.
    """

    clip: float = 1.0

    def __post_init__(self) -> None:
        check_in("clip", self.clip, "(0, 1]")

    def gather(self, seen: tuple[Tensor, Tensor] | None, x: Tensor) -> tuple[Tensor, Tensor]:
        low, high = x.aminmax()
        return (low, high) if seen is None else (torch.minimum(seen[0], low), torch.maximum(seen[1], high))

    def find(self, seen: tuple[Tensor, Tensor], bit_width: int) -> tuple[Tensor, Tensor]:
        return self.clip * seen[0], self.clip * seen[1]


@dataclass(frozen=True)
class TopK(RangeSettings):
    """The median of the ``k`` smallest and of the ``k`` largest values (Fang et al. 2020, section 4).

    Args:
        k: Number of smallest and of largest values. For an even number the lower median is used, so that 10 values clip
            5 of the largest.
        scope: ``per_batch`` averages the medians of the batches, as in the released code (with batches of 4; smaller
            tensors and batches thus have a larger share of their values clipped). ``global`` takes the median over all
            data, as in the paper.
    """

    k: int = 10
    scope: TopKScope = "per_batch"

    def __post_init__(self) -> None:
        check_count("k", self.k)
        check_choice("scope", self.scope, get_args(TopKScope))

    def gather(self, seen: tuple[list[Tensor], list[Tensor]] | None, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        before: tuple[list[Tensor], list[Tensor]] = ([], []) if seen is None else seen
        smallest, largest = self._extremes(x, x)
        if self.scope == "per_batch":
            _warn_of_share(self.k, x.numel())
            return [*before[0], smallest.median()], [*before[1], largest.median()]
        smallest, largest = self._extremes(torch.cat([smallest, *before[0]]), torch.cat([largest, *before[1]]))
        return [smallest], [largest]

    def _extremes(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        k = min(self.k, low.numel())
        return low.topk(k, largest=False).values, high.topk(k).values

    def find(self, seen: tuple[list[Tensor], list[Tensor]], bit_width: int) -> tuple[Tensor, Tensor]:
        if self.scope == "per_batch":
            return torch.stack(seen[0]).mean(), torch.stack(seen[1]).mean()
        return seen[0][0].median(), seen[1][0].median()


@cache
def _warn_of_share(k: int, count: int) -> None:
    """Warn once if the median of the ``k`` largest of ``count`` values clips many of them."""
    clipped = min(k, count) // 2
    if clipped > 0.05 * count:
        logging.getLogger("qra").warning(
            "TopK clips the largest %.0f %% of a layer's values, as a batch has only %d of them: calibrate with larger "
            "batches, by scope global, or with MinMax",
            100 * clipped / count,
            count,
        )


_BINS = 8192


@dataclass
class _Histogram:
    """Counts of values on [-limit, limit]. When a value lies beyond, the limit doubles and bins merge in pairs."""

    limit: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    counts: Tensor = field(default_factory=lambda: torch.zeros(_BINS, dtype=torch.int64))

    def with_values(self, values: Tensor) -> _Histogram:
        """Count more values, flat."""
        low, high = (float(end) for end in values.aminmax())
        largest = _range(low, high).max_abs
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.counts = self.counts.to(values.device)
        self.limit = self.limit or largest
        while self.limit < largest:
            self.counts = torch.nn.functional.pad(self.counts.view(-1, 2).sum(1), (_BINS // 4, _BINS // 4))
            self.limit *= 2
        bins = (values / (self.limit or 1.0)).add_(1).mul_(_BINS / 2).long().clamp_(0, _BINS - 1)
        self.counts += torch.bincount(bins, minlength=_BINS)
        return self

    def edges(self) -> Tensor:
        return torch.linspace(-self.limit, self.limit, _BINS + 1, dtype=torch.float64)


@dataclass(frozen=True)
class Percentile(RangeSettings):
    """Clip the same share of values at either end, to within 1/2048 of the largest magnitude.

    Args:
        percentile: Percentage of values below the upper clip level, above 50 and at most 100: 99.9 clips a thousandth
            of the values at each end.
    """

    percentile: float = 99.9

    def __post_init__(self) -> None:
        check_in("percentile", self.percentile, "(50, 100]")

    def gather(self, seen: _Histogram | None, x: Tensor) -> _Histogram:
        return (seen or _Histogram()).with_values(x)

    def find(self, seen: _Histogram, bit_width: int) -> tuple[float, float]:
        if seen.limit == 0:
            return 0.0, 0.0
        counts = seen.counts.cpu().numpy()
        share = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
        edges = seen.edges().numpy()
        tail = 1 - self.percentile / 100
        filled = np.flatnonzero(counts)[[0, -1]]
        inner = slice(filled[0], filled[1] + 2)
        low, high = np.interp([tail, 1 - tail], share[inner], edges[inner])
        return max(low, seen.low), min(high, seen.high)


@dataclass(frozen=True)
class LeastSquares(RangeSettings):
    """The range of least squared error at the bit width in use, among multiples of 1/100 of the largest magnitude."""

    def gather(self, seen: _Histogram | None, x: Tensor) -> _Histogram:
        return (seen or _Histogram()).with_values(x)

    def find(self, seen: _Histogram, bit_width: int) -> tuple[float, float]:
        edges = seen.edges()
        centres = (edges[1:] + edges[:-1]) / 2
        largest = max(-seen.low, seen.high)
        levels = largest * torch.arange(1, 101, dtype=torch.float64).div(100).unsqueeze(1)
        signed = seen.low < 0
        quantize = uniform_symmetric if signed else uniform_unsigned
        errors = (quantize(centres.expand(100, -1), bit_width, levels) - centres).square()
        best = float(levels[(errors @ seen.counts.cpu().double()).argmin()])
        return -best if signed else 0.0, best
