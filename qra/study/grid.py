"""Expansion of a study into cells: stages of one pipeline each, whose axes span cells of ordinary ``qra`` commands."""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from qra.checks import check_count, check_in
from qra.coordinates import OVERRIDES, Axis
from qra.describe import digest
from qra.quant.bits import parse_bits
from qra.quant.rounding import check_bit_width
from qra.quant.scheme import OFF
from qra.study.commands import commands
from qra.study.stages import (
    FLOAT,
    LONGEST,
    RANDOM,
    Stage,
    Study,
    owned_options,
    same_option,
    scheme_option,
)

_LAST_SEED = 2**32 - 1
_BITS = re.compile(r"W(\d{1,3})A(\d{1,3})")
_SHORT = 120
"""Bytes that are kept of a name that is too long."""


@dataclass(frozen=True)
class Cell:
    """One point of a study.

    Args:
        name: Name of the cell, and of its directory within that of the study.
        stage: Name of its stage.
        coordinates: Coordinates of the cell on all axes.
        needs: Names of the cells that must be done before it.
        commands: Arguments that follow ``qra`` in each of its commands, which run one after the other.
        directory: Directory that it writes to.
        start: Checkpoint that it tests unchanged; None if it makes one.
    """

    name: str
    stage: str
    coordinates: Mapping[str, Any]
    needs: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]
    directory: str
    start: str | None = None

    @property
    def trains(self) -> bool:
        """Whether the cell trains the network that it tests."""
        return self.commands[0][0] == "fit"

    @property
    def checkpoint(self) -> str:
        """Path of the checkpoint that the cell makes."""
        return str(PurePosixPath(self.directory, "best.ckpt" if self.trains else "calibrated.ckpt"))

    @property
    def network(self) -> str:
        """Path of the checkpoint that the cell tests."""
        return self.checkpoint if self.start is None else self.start


def expand(study: Study, runs: str = "runs") -> list[Cell]:
    """Return all cells of a study, each after those that it needs.

    Args:
        study: The study, with paths as on command lines.
        runs: Directory of all runs.

    Raises:
        ValueError: If an axis is empty or has a value that the study does not know, a source is not made by any earlier
            stage, an option is set twice, or two cells have the same name or equal coordinates.
    """
    cells: dict[str, Cell] = {}
    places: dict[frozenset[tuple[str, str]], str] = {}
    for stage in study.stages:
        _check_options(study, stage)
        for coordinates in _points(study, stage):
            cell = _cell(study, stage, coordinates, runs, list(cells.values()))
            if cell.name in cells:
                raise ValueError(_of_one_name(cells[cell.name], cell))
            place = frozenset((axis, str(value)) for axis, value in cell.coordinates.items())
            if place in places:
                raise ValueError(
                    f"stage {stage.name}: cell {cell.name} has the same coordinates as {places[place]}, so "
                    "reports would treat the two as one pipeline: vary them by axes, or give them different coordinates"
                )
            cells[cell.name], places[place] = cell, cell.name
    return list(cells.values())


def _of_one_name(first: Cell, second: Cell) -> str:
    """Return why two cells have the same name."""
    if first.stage != second.stage:
        return f"stages {first.stage} and {second.stage} both make a cell named {second.name}: rename one of them"
    differing = [axis for axis, value in first.coordinates.items() if second.coordinates.get(axis) != value]
    twice = f"stage {second.stage}: two cells are named {second.name}: "
    if not differing:
        return f"{twice}an axis has a value twice"
    return f"{twice}values of {', '.join(differing)} differ only in characters that cell names drop"


def select(cells: Sequence[Cell], only: str = "*", shard: tuple[int, int] = (0, 1)) -> list[Cell]:
    """Return the cells whose name matches a pattern and that belong to a shard, and all cells that they need.

    Args:
        cells: Cells, each after those that it needs.
        only: Shell pattern for the names of cells, such as ``qat-*w4a4*``.
        shard: Number of the shard, from 0, and the number of shards.

    Raises:
        ValueError: If no cell matches, or the shard does not exist.
    """
    number, shards = shard
    if not 0 <= number < shards:
        raise ValueError(f"shard {number}/{shards}: shards are numbered from 0 to {shards - 1}")
    matching = [cell for cell in cells if fnmatch.fnmatch(cell.name, only)]
    if not matching:
        raise ValueError(f"no cell matches {only!r}: qra study list shows their names")
    wanted = {cell.name for cell in matching[number::shards]}
    for cell in reversed(cells):
        if cell.name in wanted:
            wanted.update(cell.needs)
    return [cell for cell in cells if cell.name in wanted]


def _check_options(study: Study, stage: Stage) -> None:
    """Reject an option that two keys set: one would win, and cells would not be what their names say."""
    owned = owned_options(stage)
    if stage.training != "none" or stage.quantizer != [FLOAT]:  # a pipeline's own scheme is a default
        owned |= {same_option(scheme_option(stage)): Axis.QUANTIZER}
    varied = {same_option(name): "axes" for name in stage.axes}
    places = (
        ("options", [*study.options, *stage.options], owned | varied),
        ("test", [*study.test, *stage.test], owned | varied),
        ("axes", stage.axes, owned),
    )
    for place, names, owned in places:
        for name in names:
            if same_option(name) in owned:
                axis = owned[same_option(name)]
                raise ValueError(f"stage {stage.name}: {name} is set by {place} and by {axis}: keep one of the two")


def _points(study: Study, stage: Stage) -> Iterator[dict[str, Any]]:
    """Yield the coordinates of a stage's cells."""
    axes: dict[str, Sequence[Any]] = {
        Axis.INIT: stage.init,
        Axis.QUANTIZER: stage.quantizer,
        "bits": stage.bits,
        "overrides": stage.overrides,
        Axis.FRACTION: study.fraction if stage.fraction is None else stage.fraction,
        Axis.CALIBRATION_SIZE: study.calibration_size if stage.calibration_size is None else stage.calibration_size,
        Axis.SEED: study.seed if stage.seed is None else stage.seed,
        **stage.axes,
    }
    for axis, values in axes.items():
        if not values:
            raise ValueError(f"stage {stage.name}: the axis {axis} is empty")
    _check_numbers(stage, axes)
    for name, values, known in (
        (Axis.INIT, stage.init, [RANDOM, *study.sources]),
        ("teacher", [] if stage.teacher is None else [stage.teacher], list(study.sources)),
        (Axis.QUANTIZER, stage.quantizer, [FLOAT, *study.quantizers]),
    ):
        for value in values:
            if value not in known:
                raise ValueError(f"stage {stage.name}: {name} {value!r} is not one of {', '.join(known) or 'sources'}")
    for point in itertools.product(*axes.values()):
        found = dict(zip(axes, point, strict=True))
        bits, overrides = found.pop("bits"), found.pop("overrides")
        if found[Axis.QUANTIZER] == FLOAT:
            if (bits, overrides) != (stage.bits[0], stage.overrides[0]):
                continue
            bits, overrides = "W32A32", {}
        several = {OVERRIDES: _layers(stage, overrides)} if overrides else {}
        yield {**_bits(stage, bits), **several, Axis.TRAINING: stage.training, **found}


def _bits(stage: Stage, text: str) -> dict[str, int]:
    match = _BITS.fullmatch(text)
    if not match:
        raise ValueError(
            f"stage {stage.name}: bits {text!r:.60}: write W4A8 for weights of 4 and activations of 8 bits"
        )
    widths = int(match[1]), int(match[2])
    _check_widths(f"stage {stage.name}: bits {text!r}", widths)
    return dict(zip((Axis.WEIGHT_BITS, Axis.ACT_BITS), widths, strict=True))


def _check_widths(where: str, widths: Iterable[int | None]) -> None:
    for width in widths:
        try:
            if width is not None and width != OFF:
                check_bit_width(width)
        except ValueError as reason:
            raise ValueError(f"{where}: {reason}") from None


def _check_numbers(stage: Stage, axes: Mapping[str, Sequence[Any]]) -> None:
    """Reject values of axes that no run would accept, before any cell is made."""
    for share in axes[Axis.FRACTION]:
        check_in(f"stage {stage.name}: fraction", share, "(0, 1]")
    for size in axes[Axis.CALIBRATION_SIZE]:
        check_count(f"stage {stage.name}: calibration_size", size)
    for seed in axes[Axis.SEED]:
        check_count(f"stage {stage.name}: seed", seed, 0)
        check_in(f"stage {stage.name}: seed", seed, f"[0, {_LAST_SEED}]")


def _layers(stage: Stage, overrides: Mapping[str, str]) -> str:
    """Return the bit widths of single layers as one word, such as ``stages.0.*=W8,fc=W8``."""
    for pattern in overrides:
        if set(pattern) & set(",="):
            raise ValueError(f"stage {stage.name}: overrides: {pattern!r}: a pattern in a study has no , or =")
        try:
            widths = parse_bits(overrides[pattern])
        except ValueError as reason:
            raise ValueError(f"stage {stage.name}: overrides: {pattern}: {reason}") from None
        _check_widths(f"stage {stage.name}: overrides: {pattern}: {overrides[pattern]!r}", widths)
    return ",".join(f"{pattern}={bits}" for pattern, bits in overrides.items())


def _cell(study: Study, stage: Stage, coordinates: dict[str, Any], runs: str, before: Sequence[Cell]) -> Cell:
    name = _name(stage, coordinates)
    directory = str(PurePosixPath(runs, study.name, name))
    checkpoints: dict[str, str] = {}
    needs: list[str] = []
    for role, source in ((Axis.INIT, coordinates[Axis.INIT]), ("teacher", stage.teacher)):
        if source in (RANDOM, None):
            continue
        origin = study.sources[source]
        if origin.endswith(".ckpt"):
            checkpoints[role] = origin
        else:
            ancestor = _ancestor(stage, origin, coordinates, before)
            checkpoints[role] = ancestor.network
            needs += [ancestor.name] if ancestor.name not in needs else []
    line = commands(study, stage, coordinates, directory, checkpoints)
    as_it_is = stage.training == "none" and coordinates[Axis.QUANTIZER] == FLOAT
    start = checkpoints[Axis.INIT] if as_it_is else None
    return Cell(name, stage.name, coordinates | stage.coordinates, tuple(needs), line, directory, start)


def _name(stage: Stage, coordinates: Mapping[str, Any]) -> str:
    """Return the stage's name and all coordinates without a usual value, so that a longer axis does not change names.

    A name that is too long for a directory is cut, and a hash of the whole name is appended.
    """
    bits = f"w{coordinates['weight_bit_width']}a{coordinates['act_bit_width']}"
    parts = [
        (coordinates[Axis.INIT], RANDOM),
        (coordinates[Axis.QUANTIZER], FLOAT),
        (bits, "w32a32"),
        (coordinates.get(OVERRIDES, ""), ""),
        (f"fraction{coordinates['fraction']:g}", "fraction1"),
        (f"calibration{coordinates['calibration_size']}", "calibration512"),
        (f"seed{coordinates['seed']}", "seed0"),
        *((f"{axis.rpartition('.')[2]}{coordinates[axis]}", "") for axis in stage.axes),
    ]
    name = "-".join([stage.name, *(part for part, usual in parts if part != usual)])
    name, whole = re.sub(r"[^\w.=-]+", "_", name), name
    if len(name.encode()) <= LONGEST:
        return name
    return f"{name.encode()[:_SHORT].decode(errors='ignore')}-{digest(whole)[:8]}"


def _ancestor(stage: Stage, origin: str, coordinates: Mapping[str, Any], before: Sequence[Cell]) -> Cell:
    """Return the cell of the stage ``origin`` that agrees with these coordinates on as many axes as possible."""
    found = [cell for cell in before if cell.stage == origin]
    if not found:
        raise ValueError(f"stage {stage.name}: starts from stage {origin}, which must come before it")
    for axis, value in coordinates.items():
        if axis not in (Axis.TRAINING, Axis.INIT):
            found = [cell for cell in found if cell.coordinates.get(axis) == value] or found
    if len(found) > 1:
        names = ", ".join(cell.name for cell in found)
        raise ValueError(f"stage {stage.name}: stage {origin} makes several cells that it could start from: {names}")
    return found[0]
