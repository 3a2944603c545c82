"""What an evaluation finds: per example, whether the network was correct."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qra.evaluation.statistics import wilson_interval
from qra.files import plain, read_json, read_npz
from qra.writing import write_arrays

SCHEMA = 1
"""Version of ``result.json``; it changes when a key changes its meaning."""


@dataclass(frozen=True)
class Outcome:
    """Which examples a network classifies correctly under one attack.

    Args:
        name: Key of the outcome in the files, such as ``pgd20_8``.
        title: For people, such as ``PGD-20``.
        settings: The attack's settings, ready for JSON; empty for clean images.
        indices: Positions in the test set, ascending, int64, (n,).
        correct: Right or not, bool, (n,).
        eps: Budget of the attack, in pixel units.
        correct_as_bytes: Right or not once the adversarial images are rounded to bytes, bool, (n,); None where no
            images were kept.
    """

    name: str
    title: str
    settings: Mapping[str, Any] = field(repr=False)
    indices: Tensor = field(repr=False)
    correct: Tensor = field(repr=False)
    eps: float = 0.0
    correct_as_bytes: Tensor | None = field(default=None, repr=False)

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.correct)

    @property
    def accuracy(self) -> float:
        """Fraction of examples that are correct, in [0, 1]."""
        return int(self.correct.sum()) / self.n

    @property
    def accuracy_as_bytes(self) -> float | None:
        """Fraction of examples that are correct as 8-bit images; None if that is not known."""
        return None if self.correct_as_bytes is None else int(self.correct_as_bytes.sum()) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson interval of the accuracy at 95 %."""
        return wilson_interval(int(self.correct.sum()), self.n)

    def summary(self) -> dict[str, Any]:
        """The outcome without its examples, ready for JSON."""
        return {
            "accuracy": self.accuracy,
            "interval95": list(self.interval),
            "n": self.n,
            "eps": self.eps,
            **({} if self.correct_as_bytes is None else {"accuracy_as_bytes": self.accuracy_as_bytes}),
            **({"attack": dict(self.settings)} if self.settings else {}),
        }


def worst_case(name: str, members: Sequence[Outcome]) -> Outcome:
    """Right where all of several outcomes are.

    Args:
        name: Key of the result.
        members: Outcomes of the same examples in the same order, under different attacks of one budget.
    """
    correct = torch.stack([member.correct for member in members]).all(0)
    settings = {"members": [member.name for member in members]}
    return Outcome(name, "worst of these", settings, members[0].indices, correct, members[0].eps)


def write_correct(path: Path, outcomes: Mapping[str, Outcome]) -> None:
    """Write the per-example outcomes, whole or not at all.

    For each outcome NAME the file holds ``NAME.indices`` (int64), ``NAME.correct`` (bool) and, where it is known,
    ``NAME.correct_as_bytes`` (bool).
    """
    arrays = {}
    for name, outcome in outcomes.items():
        arrays[f"{name}.indices"] = outcome.indices.numpy()
        arrays[f"{name}.correct"] = outcome.correct.numpy()
        if outcome.correct_as_bytes is not None:
            arrays[f"{name}.correct_as_bytes"] = outcome.correct_as_bytes.numpy()
    write_arrays(path, arrays, compressed=True)


def read_result(path: Path) -> dict[str, Any]:
    """Read a ``result.json``, an untrusted file.

    Raises:
        ValueError: If it is cut short, of another version, or has no outcomes.
        OSError: If it cannot be opened.
    """
    result = read_json(path, follow=False)
    if not isinstance(result, dict) or result.get("schema") != SCHEMA:
        raise ValueError(f"{path}: is no result of schema {SCHEMA}")
    if not isinstance(result.get("outcomes"), dict):
        raise ValueError(f"{path}: outcomes is missing or no mapping")
    return result


def stated(summary: object) -> tuple[float, int, float]:
    """What ``result.json`` says of an outcome: accuracy, number of examples, and budget (0 if it has none).

    Raises:
        ValueError: If these are no numbers, or none that can be.
    """
    found = summary if isinstance(summary, dict) else {}
    values = [found.get("accuracy"), found.get("n"), found.get("eps", 0.0)]
    if not all(type(value) in (int, float) and abs(value) < 1e300 for value in values):
        raise ValueError("accuracy or n is no number")
    accuracy, n, eps = map(float, values)
    if not (n > 0 and 0 <= accuracy <= 1):
        raise ValueError(f"accuracy is {accuracy:g} of {n:g} examples")
    return accuracy, int(n), eps


def agrees(correct: Tensor, accuracy: float, n: int) -> bool:
    """Whether examples, bool (n,), give the accuracy that is stated."""
    return len(correct) == n and math.isclose(float(correct.double().mean()), accuracy, abs_tol=1e-6)


def read_correct(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Read what :func:`write_correct` wrote: indices and correctness of each outcome.

    Raises:
        ValueError: If it is not there, or cannot be read.
    """
    try:
        arrays = read_npz(path, follow=False)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file; qra test writes it beside result.json") from None
    except ValueError as reason:
        raise ValueError(f"{reason}; write it again by qra test") from None
    names = [key.removesuffix(".correct") for key in arrays if key.endswith(".correct")]
    return {name: _examples(path, name, arrays) for name in names}


def _examples(path: Path, name: str, arrays: Mapping[str, NDArray[Any]]) -> tuple[Tensor, Tensor]:
    """Indices, ascending, and correctness of one outcome."""
    indices, correct = arrays.get(f"{name}.indices"), arrays[f"{name}.correct"]
    fits = indices is not None and indices.ndim == 1 and indices.shape == correct.shape
    if indices is None or not fits or indices.dtype != np.int64 or correct.dtype != np.bool_:
        raise ValueError(f"{path}: {plain(name)} is no list of examples; write it again by qra test")
    order = np.argsort(indices)
    if not (np.diff(indices[order]) > 0).all():
        raise ValueError(f"{path}: {plain(name)} has an example twice; write it again by qra test")
    return torch.from_numpy(indices[order]), torch.from_numpy(correct[order])
