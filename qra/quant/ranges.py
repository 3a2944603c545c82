"""Ranges of activations, estimated batch by batch: ``update(x)`` for each batch, then ``range()``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from qra.quant.rounding import check_bit_width
from qra.quant.uniform import uniform_symmetric, uniform_unsigned

TopKScope = Literal["per_batch", "global"]


class Range(NamedTuple):
    """Where a quantizer clips. Its grid is unsigned on [0, high] if ``low >= 0``, else symmetric on ±max_abs."""

    low: float
    high: float

    @property
    def signed(self) -> bool:
        return self.low < 0

    @property
    def max_abs(self) -> float:
        return max(-self.low, self.high)


class RangeEstimator(Protocol):
    """What calibration needs of an estimator."""

    def update(self, x: Tensor) -> None:
        """Take in one batch of activations, any shape."""
        ...

    def range(self) -> Range:
        """The range so far.

        Raises:
            ValueError: If there were no data, or data that are not finite.
        """
        ...


def _range(low: Tensor | float, high: Tensor | float) -> Range:
    found = Range(float(low), float(high))
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        raise ValueError(f"activations range over [{found.low}, {found.high}]: the network's outputs are not finite")
    return found


def _no_data() -> ValueError:
    return ValueError("a range was asked for before any calibration data: run the calibration images first")


@dataclass
class MinMaxRange:
    """Smallest and largest value of all, times ``clip``.

    Args:
        clip: Factor, above 0 and at most 1.
    """

    clip: float = 1.0
    _low: Tensor | None = field(default=None, init=False, repr=False)
    _high: Tensor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.clip <= 1:
            raise ValueError(f"clip is {self.clip}, but must be above 0 and at most 1")

    def update(self, x: Tensor) -> None:
        low, high = x.detach().float().aminmax()
        self._low = low if self._low is None else torch.minimum(self._low, low)
        self._high = high if self._high is None else torch.maximum(self._high, high)

    def range(self) -> Range:
        if self._low is None or self._high is None:
            raise _no_data()
        return _range(self.clip * self._low, self.clip * self._high)


@dataclass
class TopKMedianRange:
    """Medians of the ``k`` smallest and of the ``k`` largest values (Fang et al. 2020, section 4).

    Args:
        k: How many. Of an even number the lower median counts, so that 10 values clip 5 of the largest.
        scope: ``per_batch``: the mean of each batch's median, as the released code has it (batches of 4, so the share
            that is clipped grows with smaller tensors and batches). ``global``: the median over all data, as the paper
            says.
    """

    k: int = 10
    scope: TopKScope = "per_batch"
    _smallest: list[Tensor] = field(default_factory=list, init=False, repr=False)
    _largest: list[Tensor] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k is {self.k}, but at least one value must count")

    def update(self, x: Tensor) -> None:
        values = x.detach().flatten().float()
        smallest, largest = self._extremes(values, values)
        if self.scope == "per_batch":
            self._smallest.append(smallest.median())
            self._largest.append(largest.median())
        else:
            kept = self._extremes(torch.cat([smallest, *self._smallest]), torch.cat([largest, *self._largest]))
            self._smallest, self._largest = [kept[0]], [kept[1]]

    def _extremes(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        k = min(self.k, low.numel())
        return low.topk(k, largest=False).values, high.topk(k).values

    def range(self) -> Range:
        if not self._smallest:
            raise _no_data()
        if self.scope == "per_batch":
            return _range(torch.stack(self._smallest).mean(), torch.stack(self._largest).mean())
        return _range(self._smallest[0].median(), self._largest[0].median())


_BINS = 8192


@dataclass
class _Histogram:
    """Counts of values on [-limit, limit]. When a value lies beyond, limit doubles and bins merge in pairs."""

    limit: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    counts: Tensor = field(default_factory=lambda: torch.zeros(_BINS, dtype=torch.int64))

    def update(self, x: Tensor) -> None:
        values = x.detach().flatten().float()
        low, high = (float(end) for end in values.aminmax())
        largest = _range(low, high).max_abs
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.counts = self.counts.to(values.device)
        self.limit = self.limit or largest
        while self.limit < largest:
            self.counts = torch.nn.functional.pad(self.counts.view(-1, 2).sum(1), (_BINS // 4, _BINS // 4))
            self.limit *= 2
        if self.limit > 0:
            bins = (values / self.limit).add_(1).mul_(_BINS / 2).long().clamp_(0, _BINS - 1)
            self.counts += torch.bincount(bins, minlength=_BINS)

    def require_data(self) -> None:
        if self.high < self.low:
            raise _no_data()

    def edges(self) -> Tensor:
        return torch.linspace(-self.limit, self.limit, _BINS + 1, dtype=torch.float64)


@dataclass
class PercentileRange:
    """Cuts the same share of values at either end, to within 1/4096 of the largest magnitude.

    Args:
        percentile: Above 50, at most 100: 99.9 cuts a thousandth of the values at each end.
    """

    percentile: float = 99.9
    _histogram: _Histogram = field(default_factory=_Histogram, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile is {self.percentile}, but must be above 50 and at most 100")

    def update(self, x: Tensor) -> None:
        self._histogram.update(x)

    def range(self) -> Range:
        histogram = self._histogram
        histogram.require_data()
        if histogram.limit == 0:
            return Range(0.0, 0.0)
        counts = histogram.counts.cpu().numpy()
        share = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
        edges = histogram.edges().numpy()
        tail = 1 - self.percentile / 100
        filled = np.flatnonzero(counts)[[0, -1]]
        inner = slice(filled[0], filled[1] + 2)
        low, high = np.interp([tail, 1 - tail], share[inner], edges[inner])
        return _range(max(low, histogram.low), min(high, histogram.high))


@dataclass
class MSERange:
    """The clip level of least squared quantization error, out of 100 even parts of the largest magnitude.

    Args:
        bit_width: 2 to 8.
    """

    bit_width: int
    _histogram: _Histogram = field(default_factory=_Histogram, init=False, repr=False)

    def __post_init__(self) -> None:
        check_bit_width(self.bit_width)

    def update(self, x: Tensor) -> None:
        self._histogram.update(x)

    def range(self) -> Range:
        histogram = self._histogram
        histogram.require_data()
        edges = histogram.edges()
        centres = (edges[1:] + edges[:-1]) / 2
        largest = max(-histogram.low, histogram.high)
        levels = largest * torch.arange(1, 101, dtype=torch.float64).div(100).unsqueeze(1)
        signed = histogram.low < 0
        quantize = uniform_symmetric if signed else uniform_unsigned
        errors = (quantize(centres.expand(100, -1), self.bit_width, levels) - centres).square()
        best = float(levels[(errors @ histogram.counts.cpu().double()).argmin()])
        return _range(-best if signed else 0.0, best)
