"""The smallest adversarial perturbation of each example: measurement, storage and paired comparison."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qra.attacks import Attack
from qra.attacks.fmn import largest_distance
from qra.attacks.pixels import LEVELS, PixelType
from qra.attacks.state import length
from qra.evaluation.measured import Measured
from qra.evaluation.robustness import Watch, attack_examples
from qra.evaluation.statistics import wilcoxon
from qra.files import read_npz
from qra.types import Batch

RADII = "radii.npz"
"""Name of the file beside ``correct.npz``."""
_SLACK = 1e-6
"""Tolerance of distances, which are computed in float32."""


class Radii(NamedTuple):
    """The distance to the nearest adversarial image that an attack found for each example, which is an upper bound.

    Attributes:
        indices: Positions in the test set, ascending, int64 (n,).
        radius: Distances in pixel units, float64 (n,). They are 0 where the clean image is misclassified, and the
            distance to the farthest corner of the box [0, 1] where no adversarial image was found.
        found: Whether an adversarial image was found, bool (n,).
    """

    indices: Tensor
    radius: Tensor
    found: Tensor

    def correct(self, eps: float) -> Tensor:
        """Return whether each example has no known adversarial image within ``eps``, in pixel units: bool (n,)."""
        return (self.radius > eps + _SLACK) | ~self.found

    @property
    def median(self) -> float:
        """Median radius in pixel units; the lower of the two middle values if n is even."""
        return float(self.radius.median())

    def summary(self) -> dict[str, Any]:
        """Return the summary of the radii in ``result.json``, with distances in pixel units."""
        low, high = torch.quantile(self.radius, torch.tensor([0.25, 0.75], dtype=torch.float64)).tolist()
        return {
            "median": self.median,
            "quartiles": [low, high],
            "wrong": int((self.radius == 0).sum()),
            "censored": int((~self.found).sum()),
        }

    def words(self, norm: str) -> str:
        """Return the summary in one line."""
        known = self.summary()
        low, high = (format_radius(value, norm) for value in known["quartiles"])
        rest = [f"{known[key]} {word}" for key, word in (("wrong", "wrong when clean"), ("censored", "not found"))]
        return f"median {format_radius(known['median'], norm)}, quartiles {low} and {high}; {', '.join(rest)}"


def format_radius(value: float, norm: str) -> str:
    """Format a distance given in pixel units for display, in L-inf as levels of 255."""
    return f"{LEVELS * value:.2f}/255" if norm == "linf" else f"{value:.3f}"


def smallest_perturbations(
    network: nn.Module, attack: Attack, batch: Batch, search: nn.Module, pixels: PixelType, watch: Watch
) -> Tensor:
    """Search for the nearest adversarial image of each example, anywhere in the box [0, 1].

    Args:
        network: The network that judges adversarial images.
        attack: An attack with ``finds_nearest``; its ``eps`` is ignored.
        batch: Float images in [0, 1], labels and data set indices.
        search: Network that the attack searches on, see :func:`qra.evaluation.robustness.attack_examples`.
        pixels: Pixels that the network receives; L-inf distances of ``bytes`` are whole levels.
        watch: Progress callback, called in each iteration.

    Returns:
        For each example, the distance to the nearest adversarial image, infinite if none was found, and to the farthest
        corner of the box, in pixel units: float64 (N, 2), on the CPU.
    """
    room = 1.0 if attack.norm == "linf" else math.sqrt(batch.x[0].numel())
    everywhere = dataclasses.replace(attack, eps=room)  # type: ignore[type-var]
    found = attack_examples(network, everywhere, batch, search, pixels, watch)
    distance = length(found.x_adv - batch.x, attack.norm).flatten().double()
    limit = largest_distance(batch.x, attack.norm).flatten().double()
    both = torch.stack([distance.where(~found.correct, math.inf), limit], 1).cpu()
    return (both * LEVELS).round() / LEVELS if pixels == "bytes" and attack.norm == "linf" else both


def radii_of(indices: Tensor, distances: Tensor) -> Radii:
    """Build :class:`Radii` from the results of :func:`smallest_perturbations`.

    Args:
        indices: Positions in the test set, (n,).
        distances: Distances and largest distances, (n, 2).
    """
    order = indices.argsort()
    distance, limit = distances[order].unbind(1)
    return Radii(indices[order], torch.minimum(distance, limit), distance.isfinite())


class RadiusPair(NamedTuple):
    """Comparison of the radii of two networks on the examples that they share.

    Attributes:
        n: Number of shared examples.
        medians: Median radius of each network, in pixel units.
        differences: Radius of the second network minus that of the first, in pixel units, (n,). Differences are rounded
            to multiples of 1e-6, and are 0 where neither network has a known adversarial image.
        counts: Whether an example has a known adversarial image for one of the networks and is not wrong without an
            attack for both, so that a difference of 0 says that the radii are equal, bool (n,).
        p: Two-sided p-value of Wilcoxon's signed-rank test, without zeros.
    """

    n: int
    medians: tuple[float, float]
    differences: Tensor
    counts: Tensor
    p: float

    @property
    def nearer(self) -> int:
        """Number of examples whose radius is smaller for the second network."""
        return int((self.differences < 0).sum())

    @property
    def farther(self) -> int:
        """Number of examples whose radius is larger for the second network."""
        return int((self.differences > 0).sum())


def paired_radii(first: Radii, second: Radii) -> RadiusPair | None:
    """Compare the radii of two networks, or return None if they share no example.

    If one of the two is censored, its distance is that of the farthest corner of the box, so that the difference has
    the right sign and the largest possible size.
    """
    indices = first.indices[torch.isin(first.indices, second.indices)]
    if len(indices) == 0:
        return None
    a, b = (_at(radii, indices) for radii in (first, second))
    differences = ((b.radius - a.radius) / _SLACK).round() * _SLACK
    differences = differences.where(a.found | b.found, 0)
    counts = (a.found | b.found) & ((a.radius > 0) | (b.radius > 0))
    return RadiusPair(len(indices), (a.median, b.median), differences, counts, wilcoxon(differences))


def _at(radii: Radii, indices: Tensor) -> Radii:
    """Return the radii of some positions, which must be ascending and all present."""
    places = torch.searchsorted(radii.indices, indices)
    return Radii(*(each[places] for each in radii))


def radii_arrays(found: Mapping[str, Radii]) -> dict[str, NDArray[Any]]:
    """Return the arrays of a ``radii.npz`` by name: ``NAME.indices``, ``NAME.radius`` and ``NAME.found``."""
    return {f"{name}.{key}": value.numpy() for name, each in found.items() for key, value in each._asdict().items()}


def read_radii(directory: Path, outcomes: Mapping[str, Measured]) -> dict[str, Radii]:
    """Read the radii of a run, an untrusted file, and keep those that agree with their outcomes.

    Args:
        directory: The run directory; it may have no radii.
        outcomes: Outcomes in ``result.json``, by name.

    Raises:
        ValueError: If the file cannot be read.
    """
    try:
        arrays = read_npz(directory / RADII, follow=False)
    except FileNotFoundError:
        return {}
    found = {}
    for name, outcome in outcomes.items():
        parts = [arrays.get(f"{name}.{key}") for key in Radii._fields]
        if (radii := _checked(parts)) is not None:
            accuracy = float(radii.correct(outcome.threat_model.eps).double().mean())
            if len(radii.indices) == outcome.accuracy.n and abs(accuracy - outcome.accuracy.value) < 1e-6:
                found[name] = radii
    return found


def _checked(parts: list[NDArray[Any] | None]) -> Radii | None:
    """Return arrays from a file as radii, or None if they are not valid."""
    types = (np.int64, np.float64, np.bool_)
    arrays = [part for part, kind in zip(parts, types, strict=True) if part is not None and part.dtype == kind]
    if len(arrays) < len(types) or arrays[0].ndim != 1 or len({array.shape for array in arrays}) > 1:
        return None
    indices, radius, found = map(torch.from_numpy, arrays)
    ascending = bool((indices.diff() > 0).all())
    possible = len(indices) > 0 and bool(((radius >= 0) & (radius < math.inf)).all())
    return Radii(indices, radius, found) if ascending and possible else None
