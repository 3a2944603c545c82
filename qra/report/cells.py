"""Reading what the cells of a study left behind: untrusted files, any of which may be missing or cut short."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from qra.evaluation.measured import numbers
from qra.evaluation.outcome import agrees, read_result
from qra.evaluation.statistics import wilson_interval
from qra.evaluation.store import read_examples
from qra.files import plain, read_json
from qra.runs import completion

CELL_SCHEMA = 1
"""Version of ``cell.json`` that can be read."""

Value = str | int | float | bool | None

_NAME = re.compile(r"(?P<attack>[a-z]+\d*)_(?P<levels>\d+(?:\.\d+)?)(?:_(?P<mode>[a-z_]+))?")
_FILES = ("cell.json", "result.json", "config.yaml", "run.json")
_LARGEST_NUMBER = 1e300
"""Of what counts as a number: neither infinite nor too long for a float."""


@dataclass(frozen=True)
class Accuracy:
    """An accuracy as a fraction of n examples, with its Wilson interval at 95 %.

    Args:
        value: Accuracy in [0, 1]; the mean over seeds where there are several.
        n: Number of examples of one seed.
        worst: The lowest of several seeds; None for one seed.
    """

    value: float
    n: int
    worst: float | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """Of ``value`` on n examples: it covers the choice of test examples, not that of seeds."""
        return wilson_interval(round(self.value * self.n), self.n)


@dataclass(frozen=True)
class Measured:
    """One outcome of a cell, without its examples.

    Args:
        name: Such as ``pgd20_8_hard``.
        attack: Such as ``pgd20``; ``clean`` for no attack.
        levels: Budget in pixel levels of 255; 0 for clean images.
        mode: How gradients were taken, such as ``hard``; empty for straight-through, ``other`` for outcomes that are no
            robust accuracy of their own, such as parts of AutoAttack.
        accuracy: Fraction that is correct, and n.
    """

    name: str
    attack: str
    levels: float
    mode: str
    accuracy: Accuracy

    @property
    def is_robust_accuracy(self) -> bool:
        """Whether it can stand for robust accuracy: under attack, with straight-through gradients, not Square alone."""
        return not self.mode and self.levels > 0 and self.attack != "square"


@dataclass(frozen=True)
class CellResult:
    """What is known of one cell.

    Args:
        name: Name of its directory.
        directory: Where its files are.
        stage: Stage of the study.
        coordinates: Place of the cell in the grid, by axis.
        state: ``done``, ``failed``, ``running``; ``unfinished`` where its training is; ``unreadable`` where the files
            do not say, or say what cannot be.
        reason: Why it failed or cannot be read.
        problems: Whatever else is wrong with its files.
        commands: The commands that made it.
        seconds: Wall time by step, such as ``fit``.
        outcomes: Outcomes by name; empty unless the cell is done.
        cost: ``size_in_bits``, ``bit_ops`` and so on, as far as they are known.
        verdict: ``sound``, ``suspect`` or ``not judged``: whether gradients seem to be hidden.
        doubts: Reasons of that verdict.
        sheet: What else ``result.json`` holds: versions, device, commit, data.
    """

    name: str
    directory: Path
    stage: str = ""
    coordinates: Mapping[str, Value] = field(default_factory=dict)
    state: str = "unreadable"
    reason: str = ""
    problems: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    outcomes: Mapping[str, Measured] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    verdict: str = "not judged"
    doubts: tuple[str, ...] = ()
    sheet: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def suspect(self) -> bool:
        """Whether its robust accuracies may be too high because gradients are hidden."""
        return self.verdict == "suspect"

    @cached_property
    def _examples(self) -> dict[str, tuple[Tensor, Tensor]]:
        try:
            return read_examples(self.directory, self.sheet)
        except (OSError, ValueError):
            return {}

    def examples(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]] | None:
        """Indices and correctness of each example, by ascending index; None where the files do not tell.

        An outcome counts only if its examples give the accuracy that ``result.json`` says.
        """
        found, measured = self._examples.get(name), self.outcomes.get(name)
        if found is None or measured is None:
            return None
        indices, correct = found
        if not agrees(correct, measured.accuracy.value, measured.accuracy.n):
            return None
        return indices.numpy(), correct.numpy()


def read_cells(directory: Path) -> tuple[CellResult, ...]:
    """Read all cells of a study, in the order of their names.

    Args:
        directory: It holds one directory a cell.

    Raises:
        ValueError: If there is no such directory, or no cell in it.
    """
    if not directory.is_dir():
        raise ValueError(f"{directory}: there is no study here; qra study run writes one")
    if any((directory / name).exists() for name in ("run.json", "result.json")):
        raise ValueError(f"{directory}: is one run, not a study: qra compare shows runs; name the study's directory")
    folders = sorted(path for path in directory.iterdir() if any((path / name).exists() for name in _FILES))
    if not folders:
        raise ValueError(f"{directory}: no cell of a study lies here; qra study run writes one directory a cell")
    return tuple(read_cell(folder) for folder in folders)


def read_cell(directory: Path) -> CellResult:
    """Read one cell; what is wrong with its files is said in the result, never raised."""
    name = directory.name
    try:
        cell = _read(_read_cell_json, directory / "cell.json")
        coordinates = {plain(axis): _value(value) for axis, value in _mapping(cell, "coordinates").items()}
    except ValueError as error:
        return CellResult(name, directory, reason=str(error))
    known: dict[str, Any] = {
        "stage": str(cell.get("stage", "")),
        "coordinates": coordinates,
        "commands": tuple(_command(line) for line in _list(cell.get("commands"))),
        "seconds": _numbers(cell.get("seconds")),
    }
    state, reason = str(cell.get("state")), str(cell.get("reason") or "")
    if state != "done":
        if state == "running":
            reason = "it runs, or was interrupted"
        elif state != "failed":
            state, reason = "unreadable", f"cell.json: state is {state!r}"
        return CellResult(name, directory, state=state, reason=reason, **known)
    try:
        result = _read(read_result, directory / "result.json")
        outcomes, problems = _outcomes(_mapping(result, "outcomes"))
    except ValueError as error:
        return CellResult(name, directory, reason=str(error), **known)
    if lack := _unfinished(directory, result):
        return CellResult(name, directory, state="unfinished", reason=lack, **known)
    verdict, doubts = _masking(result.get("masking"))
    return CellResult(
        name,
        directory,
        state="done",
        problems=tuple(problems),
        outcomes=outcomes,
        cost=_numbers(result.get("cost")),
        verdict=verdict,
        doubts=doubts,
        sheet=result,
        **known,
    )


def _unfinished(directory: Path, result: Mapping[str, Any]) -> str | None:
    """What is missing in the training of the network that a result is of, as far as anything says so."""
    said = [completion.parse(result["training"])] if "training" in result else []
    found = [*said, completion.read(directory)]
    return next((f"its training is {each}" for each in found if each is not None and not each.finished), None)


def _read(read: Callable[[Path], Mapping[str, Any]], path: Path) -> Mapping[str, Any]:
    """Read a file of a cell; what is wrong with it is said with its name alone."""
    try:
        if path.parent.is_symlink():
            raise ValueError(f"{path}: lies behind a symbolic link, which is not followed")
        return read(path)
    except FileNotFoundError:
        raise ValueError(f"there is no {path.name}") from None
    except OSError as reason:
        raise ValueError(f"{path.name}: {reason.strerror}") from None
    except ValueError as reason:
        raise ValueError(str(reason).replace(f"{path}: ", f"{path.name} ")) from None


def _read_cell_json(path: Path) -> Mapping[str, Any]:
    content = read_json(path, follow=False)
    if not isinstance(content, dict) or content.get("schema") != CELL_SCHEMA:
        raise ValueError(f"{path}: is not of schema {CELL_SCHEMA}")
    return content


def _outcomes(summaries: Mapping[str, Any]) -> tuple[dict[str, Measured], list[str]]:
    """The outcomes that can be, and what is wrong with the others."""
    outcomes, problems = {}, []
    for name, summary in summaries.items():
        try:
            outcomes[name] = _measured(name, summary)
        except ValueError as reason:
            problems.append(f"outcome {name}: {reason}")
    return outcomes, problems


def _measured(name: str, summary: Any) -> Measured:
    value, n, eps = numbers(summary if isinstance(summary, dict) else {})
    accuracy = Accuracy(value, n)
    match = _NAME.fullmatch(name)
    if match is None:
        mode = "" if name == "clean" else "other"
        return Measured(name, name, 255 * eps, mode, accuracy)
    levels = float(match["levels"])
    if "eps" in summary and not math.isclose(255 * eps, levels, abs_tol=1e-3):
        raise ValueError(f"eps is {255 * eps:g}/255")
    return Measured(name, match["attack"], levels, match["mode"] or "", accuracy)


def _masking(masking: Any) -> tuple[str, tuple[str, ...]]:
    """Verdict and its reasons; a verdict that cannot be read is no sound one."""
    if masking is None:
        return "not judged", ()
    if isinstance(masking, dict) and masking.get("verdict") == "sound":
        return "sound", ()
    reasons = _list(masking.get("reasons")) if isinstance(masking, dict) else ["the verdict cannot be read"]
    return "suspect", tuple(str(reason) for reason in reasons)


def _mapping(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = content.get(key)
    if not isinstance(found, dict):
        raise ValueError(f"{key} is missing or no mapping")
    return found


def _value(value: Any) -> Value:
    """A coordinate: text, a finite number, or the JSON of anything else."""
    if isinstance(value, str):
        return plain(value)
    is_number = isinstance(value, int | None) or (isinstance(value, float) and math.isfinite(value))
    return value if is_number else json.dumps(value)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _command(line: object) -> str:
    """A command as it is typed."""
    return shlex.join(["qra", *map(str, line)]) if isinstance(line, list) else str(line)


def _numbers(values: object) -> dict[str, float]:
    """The entries that are finite numbers."""
    pairs = values.items() if isinstance(values, dict) else ()
    numbers = ((str(key), value) for key, value in pairs if type(value) in (int, float))
    return {key: float(value) for key, value in numbers if abs(value) <= _LARGEST_NUMBER}
