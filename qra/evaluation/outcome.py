"""Outcomes of evaluations: whether the network was correct on each example."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qra.evaluation import schema1
from qra.evaluation.measured import Measured, PixelContract, Role, read_measured
from qra.evaluation.radii import Radii
from qra.evaluation.statistics import wilson_interval
from qra.files import plain, read_json, read_npz
from qra.precision import Precision
from qra.types import Norm

SCHEMA = 2
"""Version of ``result.json``; it is raised when a key changes its meaning."""
READABLE = (1, SCHEMA)
"""Versions that can be read."""

Examples = tuple[Tensor, Tensor]
"""Positions in the test set, ascending, int64 (n,), and whether the network is correct on each, bool (n,)."""


@dataclass(frozen=True)
class Outcome:
    """Which examples a network classifies correctly under one attack.

    Code that reads outcomes relies on these fields; the name is only a key.

    Args:
        name: Key of the outcome in the files, such as ``pgd20_8``.
        title: Display name of the attack and its settings, without threat model and gradient mode, such as ``PGD-20``.
        settings: Description of the attack, ready for JSON; empty for clean images.
        indices: Positions in the test set, ascending, int64, (n,).
        correct: Whether the network is correct on each example, bool, (n,).
        eps: Radius of the attack's ball, in pixel units.
        role: Role of the outcome. By default ``robust`` if there are settings, else ``clean`` if the name is ``clean``
            and ``part`` otherwise.
        norm: Norm of the ball; defaults to the norm in the settings, or ``linf`` if they have none.
        pixels: Whether the attack may send ``float`` images or ``bytes``.
        gradient: How the attack differentiates roundings, such as ``ste``; empty if it takes no gradient, and for
            ``ste`` on a network other than the attacked one.
        source: Source network of the adversarial images, if it is not the attacked one: its ``path`` and ``sha256``, or
            a ``name`` such as ``unrounded``.
        search_precision: Precision of the attack's computations; its successes are judged in float32.
        standard: Name of the published protocol that the settings match, such as ``AutoAttack``; empty if there is
            none.
        survivors_of: Names of outcomes, if only examples that survived them were attacked. The others count as wrong,
            or are missing from ``indices``.
        members: Names of the outcomes that a worst case covers.
        radii: Smallest perturbations of the examples, if the attack searched for them.

    Raises:
        ValueError: If ``correct`` is no bool for each of the indices.
    """

    name: str
    title: str
    settings: Mapping[str, Any] = field(repr=False)
    indices: Tensor = field(repr=False)
    correct: Tensor = field(repr=False)
    eps: float = 0.0
    role: Role | None = None
    norm: Norm | None = None
    pixels: PixelContract = "float"
    gradient: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)
    search_precision: Precision = "float32"
    standard: str = ""
    survivors_of: Sequence[str] = ()
    members: Sequence[str] = ()
    radii: Radii | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.correct.dtype != torch.bool or self.correct.shape != self.indices.shape:
            given = f"{self.correct.dtype} {tuple(self.correct.shape)}"
            raise ValueError(f"{self.name}: correct is {given} for {len(self.indices)} indices: give a bool for each")
        if self.role is None:
            plainly: Role = "clean" if self.name == "clean" else "part"
            object.__setattr__(self, "role", "robust" if self.settings else plainly)
        if self.norm is None:
            arguments = self.settings.get("init_args")
            stated = arguments.get("norm") if isinstance(arguments, Mapping) else None
            object.__setattr__(self, "norm", stated if stated in get_args(Norm) else "linf")

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.correct)

    @property
    def accuracy(self) -> float:
        """Fraction of examples that are correct, in [0, 1]."""
        return int(self.correct.sum()) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson interval of the accuracy at 95 %."""
        return wilson_interval(int(self.correct.sum()), self.n)

    def summary(self) -> dict[str, Any]:
        """Return the outcome without its examples, ready for JSON."""
        known = {
            "gradient": self.gradient,
            "source": dict(self.source),
            "standard": self.standard,
            "survivors_of": list(self.survivors_of),
            "members": list(self.members),
            "radii": {} if self.radii is None else self.radii.summary(),
            "attack": dict(self.settings),
        }
        return {
            "title": self.title,
            "role": self.role,
            "accuracy": self.accuracy,
            "interval95": list(self.interval),
            "n": self.n,
            "examples": examples_id(self.indices),
            "norm": self.norm,
            "eps": self.eps,
            "pixels": self.pixels,
            "search_precision": self.search_precision,
            **{key: value for key, value in known.items() if value not in ("", [], {})},
        }

    @property
    def measured(self) -> Measured:
        """The outcome without its examples."""
        return read_measured(self.name, self.summary())


def examples_id(indices: Tensor) -> str:
    """Return a hash that identifies a choice of examples by their positions, int64 (n,)."""
    return hashlib.sha256(indices.numpy().astype("<i8").tobytes()).hexdigest()[:16]


def correct_arrays(examples: Mapping[str, Examples]) -> dict[str, NDArray[Any]]:
    """Return the arrays of a ``correct.npz``, by name, from the examples of each outcome."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, (indices, correct) in examples.items():
        arrays |= {f"{name}.indices": indices.numpy(), f"{name}.correct": correct.numpy()}
    return arrays


def read_result(path: Path) -> dict[str, Any]:
    """Read a ``result.json``, an untrusted file of schema 1 or 2, and return its content in schema 2.

    Raises:
        ValueError: If the file is truncated, of another version, or has no outcomes.
        OSError: If the file cannot be opened.
    """
    result = read_json(path, follow=False)
    schema = result.get("schema") if isinstance(result, dict) else None
    if type(schema) is int and schema > SCHEMA:
        raise ValueError(f"{path}: has schema {schema}, of a newer version of qra; this version reads {SCHEMA} and 1")
    if type(schema) is not int or schema not in READABLE:
        raise ValueError(f"{path}: is not a result of schema {SCHEMA} or 1")
    if not isinstance(result.get("outcomes"), dict):
        raise ValueError(f"{path}: outcomes is missing or not a mapping")
    return schema1.upgraded(result) if schema == 1 else result


def agrees(correct: Tensor, accuracy: float, n: int) -> bool:
    """Return whether the correctness of examples, bool (n,), agrees with the stated accuracy and n."""
    return len(correct) == n and math.isclose(float(correct.double().mean()), accuracy, abs_tol=1e-6)


def read_correct(path: Path) -> dict[str, Examples]:
    """Read the arrays of :func:`correct_arrays`: indices and correctness of each outcome.

    Raises:
        ValueError: If the file is missing or cannot be read.
    """
    try:
        arrays = read_npz(path, follow=False)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file; qra test writes it beside result.json") from None
    except ValueError as reason:
        raise ValueError(f"{reason}; write it again by qra test") from None
    names = [key.removesuffix(".correct") for key in arrays if key.endswith(".correct")]
    return {name: _examples(path, name, arrays) for name in names}


def _examples(path: Path, name: str, arrays: Mapping[str, NDArray[Any]]) -> Examples:
    """Return the indices, ascending, and the correctness of one outcome."""
    indices, correct = arrays.get(f"{name}.indices"), arrays[f"{name}.correct"]
    fits = indices is not None and indices.ndim == 1 and indices.shape == correct.shape
    if indices is None or not fits or indices.dtype != np.int64 or correct.dtype != np.bool_:
        raise ValueError(f"{path}: {plain(name)} is not a list of examples; write it again by qra test")
    order = np.argsort(indices)
    if not (np.diff(indices[order]) > 0).all():
        raise ValueError(f"{path}: {plain(name)} contains an example twice; write it again by qra test")
    return torch.from_numpy(indices[order]), torch.from_numpy(correct[order])
