"""Learning rate schedules in fractions of the run, so that one config serves runs of any length."""

from __future__ import annotations

import bisect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from qra.checks import check_in

__all__ = ["Cosine", "MultiStep", "OneCycle", "Schedule"]


class Schedule(ABC):
    """Base class of learning rate schedules, multipliers over the run; subclasses are frozen dataclasses."""

    @abstractmethod
    def multiplier(self, done: float) -> float:
        """Return the multiplier of the learning rate when the fraction ``done``, in [0, 1], of all steps is done."""

    def __call__(self, optimizer: Optimizer, total_steps: int) -> LambdaLR:
        """Return the scheduler, to be stepped after each of ``total_steps`` optimizer steps."""
        return LambdaLR(optimizer, lambda step: self.multiplier(min(step / total_steps, 1.0)))


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Rise linearly from 4 % of the learning rate to all of it, then fall linearly to 0.

    Args:
        warmup: Fraction of the run at which the full learning rate is reached, in (0, 1).
    """

    warmup: float = 0.3

    def __post_init__(self) -> None:
        check_in("warmup", self.warmup, "(0, 1)")

    def multiplier(self, done: float) -> float:
        rising = 0.04 + 0.96 * done / self.warmup
        return min(rising, (1 - done) / (1 - self.warmup))


@dataclass(frozen=True)
class MultiStep(Schedule):
    """Multiply the learning rate by ``gamma`` at each milestone.

    Args:
        milestones: Fractions of the run between 0 and 1, ascending.
        gamma: Factor at each milestone.
    """

    milestones: Sequence[float] = (0.5, 0.75)
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if list(self.milestones) != sorted(self.milestones) or not all(0 < m < 1 for m in self.milestones):
            raise ValueError(f"milestones must be ascending fractions of the run in (0, 1), not {self.milestones}")

    def multiplier(self, done: float) -> float:
        return float(self.gamma ** bisect.bisect_right(self.milestones, done))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from the full learning rate to 0 (Loshchilov and Hutter 2017, arXiv 1608.03983, no restarts)."""

    def multiplier(self, done: float) -> float:
        return (1 + math.cos(math.pi * done)) / 2
