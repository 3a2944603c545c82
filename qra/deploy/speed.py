"""Speed of an export on engines, compared with its float network."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qra.deploy.engine import Engine
from qra.timing import Timing, alternate, speed_ratio


def bench(
    makers: Mapping[str, Callable[..., Engine]],
    batches: Sequence[int],
    threads: Sequence[int],
    rounds: int,
) -> dict[str, Any]:
    """Time models on engines, alternating between them.

    Args:
        makers: Functions that load a model for a number of threads, by name; the first is the baseline.
        batches: Batch sizes.
        threads: Numbers of threads.
        rounds: Number of measurements of each.

    Returns:
        Rows with medians, spread and throughput, ready for JSON.
    """
    base, rows = next(iter(makers)), list[dict[str, Any]]()
    for count in threads:
        engines = {name: make(threads=count) for name, make in makers.items()}
        for batch in batches:
            images = _images(batch, next(iter(engines.values())).runtime.image_shape)
            repeats = _repeats(engines[base], images)
            timed = alternate(
                {name: _work(engine, images, repeats) for name, engine in engines.items()}, rounds, torch.device("cpu")
            )
            rows += [_row(name, batch, count, timed[name], timed[base], repeats) for name in engines]
    return {"rounds": rounds, "base": base, "rows": rows}


def _images(batch: int, shape: Sequence[int]) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (batch, *shape), np.uint8)


def _work(engine: Engine, images: NDArray[np.uint8], repeats: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(repeats):
            engine.run(images)

    return run


def _repeats(engine: Engine, images: NDArray[np.uint8]) -> int:
    """Return how many runs take about 50 ms together, so that a clock can measure them."""
    once = alternate({"": _work(engine, images, 1)}, 3, torch.device("cpu"))[""]
    return max(1, round(0.05 / once.median))


def _row(name: str, batch: int, threads: int, timing: Timing, base: Timing, repeats: int) -> dict[str, Any]:
    ms = [1000 * seconds / repeats for seconds in timing.seconds]
    ratio = speed_ratio(timing, base)
    return {
        "name": name,
        "batch": batch,
        "threads": threads,
        "ms": statistics.median(ms),
        "ms_low": min(ms),
        "ms_high": max(ms),
        "images_per_second": 1000 * batch / statistics.median(ms),
        "times_as_fast": ratio["ratio"],
        "times_low": ratio["lowest"],
        "times_high": ratio["highest"],
    }
