"""Contestants timed in turn, so that a slow spell of the machine meets all of them, and ratios within rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from qra.memory import keep_memory

Key = TypeVar("Key")


@dataclass
class Timing:
    """What a contestant took.

    Attributes:
        seconds: One entry a round.
        result: What the last call returned.
    """

    seconds: list[float]
    result: Any

    @property
    def median(self) -> float:
        """Median of the rounds, in seconds."""
        return statistics.median(self.seconds)


def alternate(
    contestants: Mapping[Key, Callable[[], Any]],
    rounds: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Key, Timing]:
    """Time each contestant once a round, in turn, so that a slow spell of the machine meets all of them.

    One round before the counted ones warms up, and compiles where there is something to compile.

    Args:
        contestants: What to time, by name.
        rounds: Number of measurements of each.
        device: Where the contestants work; it is waited for.
        clock: Seconds so far; ``time.process_time`` leaves out what other processes take.
    """
    keep_memory()  # as the qra command does
    timings = {name: Timing([], None) for name in contestants}
    for counted in [False] + [True] * rounds:
        for name, contestant in contestants.items():
            start = clock()
            result = contestant()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = clock() - start
            timings[name].result = result
            if counted:
                timings[name].seconds.append(seconds)
    return timings


def speed_ratio(timing: Timing, base: Timing) -> dict[str, float]:
    """How many times as fast as ``base``: median, lowest and highest of the ratios within each round."""
    ratios = [theirs / ours for ours, theirs in zip(timing.seconds, base.seconds, strict=True)]
    return {"ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def times_as_long(timing: Timing, base: Timing) -> dict[str, float]:
    """How many times as long as ``base``: median, lowest and highest of the ratios within each round."""
    return speed_ratio(base, timing)
