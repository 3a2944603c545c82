"""Reading the files of a study's cells, which are untrusted and may be missing or truncated."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from qra.evaluation.doubt import Doubt, doubt_of
from qra.evaluation.measured import Measured, ThreatModel
from qra.evaluation.outcome import Examples, read_result
from qra.evaluation.radii import Radii
from qra.evaluation.worst import by_threat_model, robust_accuracies, worst_cases, worst_of
from qra.files import plain, read_json
from qra.report.believed import believed
from qra.runs import completion

CELL_SCHEMA = 1
"""Version of ``cell.json`` that can be read."""

Value = str | int | float | bool | None

_FILES = ("cell.json", "result.json", "config.yaml", "run.json")
LARGEST_NUMBER = 1e100
"""Largest absolute value that counts as a number: neither infinite nor beyond what an axis can show."""


@dataclass(frozen=True)
class CellResult:
    """Everything known about one cell.

    Args:
        name: Name of its directory.
        directory: Directory of its files.
        stage: Stage of the study.
        coordinates: Coordinates of the cell, by axis.
        state: ``done``, ``failed`` or ``running``; ``unfinished`` if its training is; ``unreadable`` if the files do
            not tell or say something impossible; ``repeated`` if another cell has the same coordinates.
        reason: Why it failed, cannot be read or does not count.
        problems: Anything else that is wrong with its files.
        commands: The commands that made it.
        seconds: Wall time by step, such as ``fit``.
        outcomes: Outcomes by name, without worst cases; empty unless the cell is done.
        per_example: Indices and correctness of each example, by name of the outcome, as far as they can be trusted.
        lost: Names of outcomes whose examples were stored once but are missing.
        radii: Smallest perturbations of the examples, by name of the outcome, where they were measured.
        cost: ``size_in_bits``, ``bit_ops`` and so on, as far as they are known.
        doubt: Result of the checks for gradient masking.
        sheet: Other content of ``result.json``: versions, device, commit, data.
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
    per_example: Mapping[str, Examples] = field(default_factory=dict, repr=False)
    lost: frozenset[str] = frozenset()
    radii: Mapping[str, Radii] = field(default_factory=dict, repr=False)
    cost: Mapping[str, float] = field(default_factory=dict)
    doubt: Doubt = field(default_factory=Doubt)
    sheet: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def robust(self) -> Mapping[ThreatModel, Measured]:
        """Robust accuracy under each threat model: the worst case over all attacks, or the only one.

        Of several attacks there is no worst case if the examples of one are lost, as the others alone overstate it.
        """
        known = list(self.outcomes.values())
        worst = [outcome.measured for outcome in worst_cases(known, self.per_example)]
        found, groups = robust_accuracies([*known, *worst]), by_threat_model(known)
        return {
            bounds: outcome
            for bounds, outcome in found.items()
            if len(groups[bounds]) == 1 or not any(attack.name in self.lost for attack in groups[bounds])
        }

    @cached_property
    def attacks(self) -> Mapping[ThreatModel, Mapping[str, Measured]]:
        """Attacks of each threat model, by kind; of several of one kind, the one on the most examples."""
        found: dict[ThreatModel, dict[str, Measured]] = {}
        for bounds, members in by_threat_model(self.outcomes.values()).items():
            members.sort(key=lambda each: each.accuracy.n)
            found[bounds] = {each.kind: each for each in members}
        return found

    def about(self, key: str) -> Mapping[str, Any]:
        """Return the mapping that ``result.json`` has under a key; empty if it has none."""
        found = self.sheet.get(key)
        return found if isinstance(found, dict) else {}

    @property
    def data(self) -> str:
        """Hash of the test images; empty if unknown."""
        return plain(str(self.about("data").get("sha256", "")))

    @property
    def clean(self) -> Measured | None:
        """Accuracy on clean images; if it was measured several times, the one on the most images."""
        found = (each for each in self.outcomes.values() if each.role == "clean")
        return max(found, key=lambda each: each.accuracy.n, default=None)

    def worst(self, bounds: ThreatModel, kinds: Iterable[str]) -> Examples | None:
        """Return which of the examples that attacks share are correct under all of them.

        Returns:
            The examples; None if those of an attack are unknown.
        """
        members = [self.attacks[bounds][kind] for kind in kinds]
        if any(member.name not in self.per_example for member in members):
            return None
        return worst_of([(member, self.per_example[member.name]) for member in members])[1]


def read_cells(directory: Path) -> tuple[CellResult, ...]:
    """Read all cells of a study, each from a directory of its own, in the order of their names.

    Raises:
        ValueError: If the directory does not exist, is that of a single run, or has no cells.
    """
    if not directory.is_dir():
        raise ValueError(f"{directory}: there is no study here; qra study run writes one")
    if any((directory / name).exists() for name in ("run.json", "result.json")):
        raise ValueError(f"{directory}: is one run, not a study: qra compare shows runs; name the study's directory")
    folders = sorted(path for path in directory.iterdir() if _is_cell(path))
    if not folders:
        raise ValueError(f"{directory}: no cells of a study are here; qra study run writes one directory per cell")
    return _once(read_cell(folder) for folder in folders)


def _is_cell(path: Path) -> bool:
    try:
        return any((path / name).exists() for name in _FILES)
    except PermissionError:  # which is said of the cell
        return True


def _once(cells: Iterable[CellResult]) -> tuple[CellResult, ...]:
    """Mark all but the first cell at the same coordinates as repeated: two of one seed are not two trainings."""
    first: dict[tuple[object, ...], str] = {}
    found = []
    for cell in cells:
        place = (cell.data, *sorted(cell.coordinates.items(), key=lambda item: item[0]))
        if cell.state == "done" and first.setdefault(place, cell.name) != cell.name:
            reason = (
                f"has the same coordinates and seed as {first[place]} and does not count: give its stage "
                "different coordinates, or move one of the two away"
            )
            cell = replace(cell, state="repeated", reason=reason)
        found.append(cell)
    return tuple(found)


def read_cell(directory: Path) -> CellResult:
    """Read one cell; problems with its files are recorded in the result, never raised."""
    name = directory.name
    try:
        content = _read(_read_cell_json, directory / "cell.json")
        coordinates = {plain(axis): _value(value) for axis, value in _mapping(content, "coordinates").items()}
    except ValueError as error:
        return CellResult(name, directory, reason=str(error))
    commands = tuple(_command(line) for line in _list(content.get("commands")))
    seconds = _numbers(content.get("seconds"))
    cell = CellResult(name, directory, str(content.get("stage", "")), coordinates, commands=commands, seconds=seconds)
    state = str(content.get("state"))
    if state == "done":
        return _with_result(cell)
    if state == "running":
        return replace(cell, state=state, reason="it is running or was interrupted")
    if state == "failed":
        return replace(cell, state=state, reason=str(content.get("reason") or ""))
    return replace(cell, reason=f"cell.json: state is {state!r}")


def _with_result(cell: CellResult) -> CellResult:
    """Return a cell whose commands are done, with what its other files say as far as they can be trusted."""
    try:
        result = _read(read_result, cell.directory / "result.json")
    except ValueError as error:
        return replace(cell, reason=str(error))
    if lack := _unfinished(cell.directory, result):
        return replace(cell, state="unfinished", reason=lack)
    found = believed(cell.directory, result)
    return replace(
        cell,
        state="done",
        problems=found.problems,
        outcomes=found.outcomes,
        per_example=found.examples,
        lost=found.lost,
        radii=found.radii,
        cost=_numbers(result.get("cost")),
        doubt=doubt_of(result),
        sheet=result,
    )


def _unfinished(directory: Path, result: Mapping[str, Any]) -> str | None:
    """Return what is unfinished in the training of the tested network, as far as anything tells; None if nothing is."""
    said = [completion.parse(result["training"])] if "training" in result else []
    found = [*said, completion.read(directory)]
    return next((f"its training is {each}" for each in found if each is not None and not each.finished), None)


def _read(read: Callable[[Path], Mapping[str, Any]], path: Path) -> Mapping[str, Any]:
    """Read a file of a cell; errors name the file without its directory."""
    try:
        if path.parent.is_symlink():
            raise ValueError(f"{path}: is behind a symbolic link, which is not followed")
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
        raise ValueError(f"{path}: does not have schema {CELL_SCHEMA}")
    return content


def _mapping(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = content.get(key)
    if not isinstance(found, dict):
        raise ValueError(f"{key} is missing or not a mapping")
    return found


def _value(value: Any) -> Value:
    """Return a coordinate: text, a number that can be computed with, or the JSON of anything else."""
    if isinstance(value, str):
        return plain(value)
    is_plain = value is None or (isinstance(value, int | float) and abs(value) <= LARGEST_NUMBER)
    return value if is_plain else json.dumps(value)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _command(line: object) -> str:
    """Return a command as it would be typed."""
    return shlex.join(["qra", *map(str, line)]) if isinstance(line, list) else str(line)


def _numbers(values: object) -> dict[str, float]:
    """Return the entries that are finite numbers."""
    pairs = values.items() if isinstance(values, dict) else ()
    numbers = ((str(key), value) for key, value in pairs if type(value) in (int, float))
    return {key: float(value) for key, value in numbers if abs(value) <= LARGEST_NUMBER}
