"""Benchmarking in alternating rounds, so that a slow spell of the machine affects all contestants alike."""

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
    """Timing of a contestant.

    Attributes:
        seconds: Duration of each round, in seconds.
        result: Return value of the last call.
    """

    seconds: list[float]
    result: Any

    @property
    def median(self) -> float:
        """Median over the rounds, in seconds."""
        return statistics.median(self.seconds)


def alternate(
    contestants: Mapping[Key, Callable[[], Any]],
    rounds: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Key, Timing]:
    """Time each contestant once per round, in turn, so that a slow spell of the machine affects all of them alike.

    One untimed round comes first, to warm up and to compile what needs it; on a GPU two, as work is recorded as a CUDA
    graph when it is run for the second time.

    Args:
        contestants: Functions to time, by name.
        rounds: Number of measurements of each.
        device: Device on which they work; a CUDA device is synchronized after each call.
        clock: Function that returns the time in seconds; ``time.process_time`` excludes other processes.

    Returns:
        Timings by name.
    """
    keep_memory()  # as the qra command does
    timings = {name: Timing([], None) for name in contestants}
    for counted in [False] * (2 if device.type == "cuda" else 1) + [True] * rounds:
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
    """Return how many times as fast as ``base`` it is: median, lowest and highest ratio within rounds."""
    ratios = [theirs / ours for ours, theirs in zip(timing.seconds, base.seconds, strict=True)]
    return {"ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def times_as_long(timing: Timing, base: Timing) -> dict[str, float]:
    """Return how many times as long as ``base`` it takes: median, lowest and highest ratio within rounds."""
    return speed_ratio(base, timing)
