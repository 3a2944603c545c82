"""A study: stages of one pipeline each, whose axes span cells; each cell is ordinary ``qra`` commands."""

from __future__ import annotations

import difflib
import fnmatch
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from qra.checks import check_count, check_in
from qra.coordinates import Axis
from qra.quant.bits import parse_bits
from qra.quant.scheme import OFF

MOST = 16
"""Largest bit width of a quantizer; a scheme may take fewer."""
FLOAT = "float"
"""The quantizer that means: not quantized."""
RANDOM = "random"
"""The source that means: not trained before."""

OVERRIDES = "overrides"
"""The coordinate that says which layers have other bits; cells without such layers lack it."""

TRAININGS = ("none", "plain", "adversarial", "transfer")
"""The usual ways to train."""

_BITS = re.compile(r"W(\d+)A(\d+)")
_SOURCES = re.compile(r"\{(init|teacher)\}")


@dataclass(frozen=True)
class Stage:
    """The cells of one pipeline: every combination of the values on its axes.

    Args:
        name: The cells' names begin with it.
        pipeline: Config of the run, relative to the file of the study.
        training: How the pipeline trains: ``plain``, ``adversarial``, ``transfer``, or a name of your own for a method
            whose class says whether it ``is_adversarial``; ``none`` only tests the checkpoint it starts from, quantized
            or not.
        init: What the network starts from: ``random``, or sources of the study.
        quantizer: ``float``, or quantizers of the study. A float cell has no bits and is made once.
        bits: Bits of weights and activations, such as ``W4A8``; 32 leaves one of them float.
        overrides: Bits of single layers by patterns on their names, such as ``{fc: W8}``; ``{}`` for none.
        fraction: Shares of the training images; those of the study if not given.
        calibration_size: Numbers of calibration images; those of the study if not given.
        seed: Seeds, those of the study if not given: of initialization and of the order of the images where a stage
            trains, of the choice of calibration images where it does not.
        axes: Any further option of the command line, with its values.
        teacher: The source that a transfer learns from.
        options: Options of the pipeline's command, by name.
        test: Options of the cells' ``qra test``, besides those of the study.
        coordinates: What reports take its cells for, where the axes do not tell: the ``training`` of a checkpoint that
            is only tested.
    """

    name: str
    pipeline: str
    training: str
    init: list[str] = field(default_factory=lambda: [RANDOM])
    quantizer: list[str] = field(default_factory=lambda: [FLOAT])
    bits: list[str] = field(default_factory=lambda: ["W4A4"])
    overrides: list[dict[str, str]] = field(default_factory=lambda: [{}])
    fraction: list[float] | None = None
    calibration_size: list[int] | None = None
    seed: list[int] | None = None
    axes: dict[str, list[Any]] = field(default_factory=dict)
    teacher: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    test: dict[str, Any] = field(default_factory=dict)
    coordinates: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A typed list of stages.

    Options of the command line are written without the leading dashes. In their values ``{init}`` and ``{teacher}``
    stand for the checkpoints that a cell starts and learns from, and paths of YAML files are relative to the study's.

    Args:
        name: Name of the directory under ``runs``; that of the file if not given.
        stages: A stage may start from those before it.
        sources: What cells start from or learn from, by name: a stage, or the path of a checkpoint.
        quantizers: Config of each quantizer, by name: a scheme for stages that train, a callback for those that do not.
        fraction: Shares of the training images.
        calibration_size: Numbers of calibration images.
        seed: Seeds, see :class:`Stage`.
        options: Options of every pipeline's command.
        test: Options of every ``qra test``: the attacks.
        threads: Threads of a cell, on which results on the CPU depend.
        gpus: Share of a GPU that a cell takes on a Ray cluster.
    """

    name: str
    stages: list[Stage]
    sources: dict[str, str] = field(default_factory=dict)
    quantizers: dict[str, str] = field(default_factory=dict)
    fraction: list[float] = field(default_factory=lambda: [1.0])
    calibration_size: list[int] = field(default_factory=lambda: [512])
    seed: list[int] = field(default_factory=lambda: [0])
    options: dict[str, Any] = field(default_factory=dict)
    test: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("the study has no stages")
        check_count("threads", self.threads)
        check_in("gpus", self.gpus, "[0, inf)")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus is {self.gpus}: a cell takes a share of one GPU, up to 1, or whole ones")
        for stage in self.stages:
            _check_training(stage)
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{names.count(name)} stages are named {name}")
        for name, source in self.sources.items():
            if source not in names and not source.endswith(".ckpt"):
                raise ValueError(
                    f"sources.{name}: no stage makes {source!r}; name a stage ({', '.join(names)}) or a .ckpt file"
                )


@dataclass(frozen=True)
class Cell:
    """One point of a study.

    Args:
        name: Name of its directory in that of the study.
        stage: Name of its stage.
        coordinates: Place of the cell on every axis.
        needs: Names of the cells that must be done before.
        commands: What follows ``qra``, to be run one after the other.
        directory: Where it writes.
    """

    name: str
    stage: str
    coordinates: Mapping[str, Any]
    needs: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]
    directory: str

    @property
    def trains(self) -> bool:
        """Whether it trains the network that it tests."""
        return self.commands[0][0] == "fit"

    @property
    def checkpoint(self) -> str:
        """The network that it makes."""
        return str(PurePosixPath(self.directory, "best.ckpt" if self.trains else "calibrated.ckpt"))


def expand(study: Study, runs: str = "runs") -> list[Cell]:
    """All cells of a study, each after those that it needs.

    Args:
        study: The study; its paths are those on the command lines.
        runs: Directory of all runs.

    Raises:
        ValueError: If an axis is empty or has a value that the study does not know, a source is made by no stage
            before, or an option is given twice.
    """
    cells: dict[str, Cell] = {}
    for stage in study.stages:
        _check_options(study, stage)
        for coordinates in _points(study, stage):
            cell = _cell(study, stage, coordinates, runs, list(cells.values()))
            if cell.name in cells:
                raise ValueError(f"stage {stage.name}: two cells are named {cell.name}: an axis has a value twice")
            cells[cell.name] = cell
    return list(cells.values())


def select(cells: Sequence[Cell], only: str = "*", shard: tuple[int, int] = (0, 1)) -> list[Cell]:
    """Cells whose name matches a pattern and which fall to a shard, with all that they need.

    Args:
        cells: Each after those that it needs.
        only: Shell pattern on the names of cells, such as ``qat-*w4a4*``.
        shard: Number of the shard, from 0, and number of shards.

    Raises:
        ValueError: If no cell matches, or there is no such shard.
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


def owned_options(stage: Stage) -> dict[str, str]:
    """The options that keys of a stage set, which nothing else may set: their names with the key of each."""
    owned = {
        "seed_everything": Axis.SEED,
        _seed(stage): Axis.SEED,
        "data.init_args.fraction": Axis.FRACTION,
        "data.init_args.calibration_size": Axis.CALIBRATION_SIZE,
        "model.init_args.init_from": Axis.INIT,
        "ckpt_path": Axis.INIT,
        "trainer.callbacks.teacher": "teacher",
        "config": "pipeline",
        "run": "name",
    }
    for name in (Axis.WEIGHT_BITS, Axis.ACT_BITS):
        owned[f"{_scheme(stage)}.{name}"] = "bits"
    owned[f"{_scheme(stage)}.overrides"] = "overrides"
    return owned


def same_option(name: str) -> str:
    """A spelling of an option that is the same for all spellings of it."""
    return name.replace(".init_args", "")


def _check_training(stage: Stage) -> None:
    """Refuse a word that is a usual training, misspelled."""
    meant = difflib.get_close_matches(stage.training, TRAININGS, 1, 0.75)
    if meant and stage.training not in TRAININGS:
        raise ValueError(f"stage {stage.name}: training {stage.training!r}: did you mean {meant[0]}?")


def _check_options(study: Study, stage: Stage) -> None:
    owned = {same_option(name): axis for name, axis in owned_options(stage).items()}
    for place, names in (("options", [*study.options, *stage.options]), ("axes", stage.axes)):
        for name in names:
            if same_option(name) in owned:
                axis = owned[same_option(name)]
                raise ValueError(f"stage {stage.name}: {name} is set by {place} and by {axis}: keep one of the two")


def _points(study: Study, stage: Stage) -> Iterator[dict[str, Any]]:
    """The coordinates of a stage's cells."""
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
                raise ValueError(f"stage {stage.name}: {name} {value!r} is none of {', '.join(known) or 'sources'}")
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
        raise ValueError(f"stage {stage.name}: bits {text!r}: write W4A8 for weights of 4 and activations of 8 bits")
    widths = int(match[1]), int(match[2])
    for width in widths:
        if not MOST >= width >= 1 and width != OFF:
            wanted = f"from 1 to {MOST}, or {OFF} for float"
            raise ValueError(f"stage {stage.name}: bits {text!r}: {width} is not {wanted}")
    return dict(zip((Axis.WEIGHT_BITS, Axis.ACT_BITS), widths, strict=True))


def _check_numbers(stage: Stage, axes: Mapping[str, Sequence[Any]]) -> None:
    """Refuse values of axes that no run would take, before any is made."""
    for share in axes[Axis.FRACTION]:
        check_in(f"stage {stage.name}: fraction", share, "(0, 1]")
    for size in axes[Axis.CALIBRATION_SIZE]:
        check_count(f"stage {stage.name}: calibration_size", size)
    for seed in axes[Axis.SEED]:
        check_count(f"stage {stage.name}: seed", seed, 0)


def _layers(stage: Stage, overrides: Mapping[str, str]) -> str:
    """Bits of single layers as one word, such as ``stages.0.*=W8,fc=W8``."""
    for pattern in overrides:
        if set(pattern) & set(",="):
            raise ValueError(f"stage {stage.name}: overrides: {pattern!r}: a pattern in a study has neither , nor =")
        try:
            parse_bits(overrides[pattern])
        except ValueError as reason:
            raise ValueError(f"stage {stage.name}: overrides: {pattern}: {reason}") from None
    return ",".join(f"{pattern}={bits}" for pattern, bits in overrides.items())


def _overrides(layers: str) -> dict[str, str]:
    """What :func:`_layers` made a word of."""
    pairs = (pair.split("=") for pair in layers.split(","))
    return {pattern: bits for pattern, bits in pairs}  # noqa: C416


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
            checkpoints[role] = ancestor.checkpoint
            needs += [ancestor.name] if ancestor.name not in needs else []
    commands = _commands(study, stage, coordinates, directory, checkpoints)
    return Cell(name, stage.name, coordinates | stage.coordinates, tuple(needs), commands, directory)


def _name(stage: Stage, coordinates: Mapping[str, Any]) -> str:
    """Stage and coordinates that are not the usual ones, so that a longer axis leaves the names of cells alone."""
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
    return re.sub(r"[^\w.=-]+", "_", name)


def _ancestor(stage: Stage, origin: str, coordinates: Mapping[str, Any], before: Sequence[Cell]) -> Cell:
    """The cell of a stage that agrees with these coordinates wherever one does."""
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


def _scheme(stage: Stage) -> str:
    return "trainer.callbacks.scheme" if stage.training == "none" else "model.init_args.scheme"


def _seed(stage: Stage) -> str:
    return "data.init_args.split_seed" if stage.training == "none" else "data.init_args.seed"


def _commands(
    study: Study, stage: Stage, coordinates: Mapping[str, Any], directory: str, checkpoints: Mapping[str, str]
) -> tuple[tuple[str, ...], ...]:
    teacher = {} if stage.teacher is None else {"trainer.callbacks.teacher": "{teacher}"}
    axes = {
        "data.init_args.fraction": coordinates[Axis.FRACTION],
        "data.init_args.calibration_size": coordinates[Axis.CALIBRATION_SIZE],
        "seed_everything": coordinates[Axis.SEED],
        _seed(stage): coordinates[Axis.SEED],
        **{axis: coordinates[axis] for axis in stage.axes},
    }
    options = {**study.options, **stage.options}
    test = {**study.test, **stage.test}
    pipeline = [{"config": stage.pipeline, "run": directory}, teacher, options, axes]
    pipeline.append(_quantization(study, stage, coordinates))
    if stage.training == "none":
        if Axis.INIT not in checkpoints:
            raise ValueError(f"stage {stage.name}: training is none, so it needs a trained network: set init")
        return (_argv("test", [*pipeline, {"ckpt_path": "{init}"}, test], checkpoints),)
    if Axis.INIT in checkpoints:
        pipeline.append({"model.init_args.init_from": "{init}"})
    best = {"ckpt_path": f"{directory}/best.ckpt"}
    return _argv("fit", pipeline, checkpoints), _argv("test", [best, test], checkpoints)


def _quantization(study: Study, stage: Stage, coordinates: Mapping[str, Any]) -> dict[str, Any]:
    scheme = _scheme(stage)
    if coordinates[Axis.QUANTIZER] == FLOAT:
        return {} if stage.training == "none" else {scheme: None}
    place = "trainer.callbacks+" if stage.training == "none" else scheme
    bits = {f"{scheme}.{name}": coordinates[name] for name in (Axis.WEIGHT_BITS, Axis.ACT_BITS)}
    several = {f"{scheme}.{OVERRIDES}": _overrides(coordinates[OVERRIDES])} if OVERRIDES in coordinates else {}
    return {place: study.quantizers[coordinates[Axis.QUANTIZER]], **bits, **several}


def _argv(command: str, parts: Sequence[Mapping[str, Any]], checkpoints: Mapping[str, str]) -> tuple[str, ...]:
    words = [command]
    for name, value in itertools.chain.from_iterable(part.items() for part in parts):
        for item in value if name.endswith("+") and isinstance(value, list) else [value]:
            words += [f"--{name}", _word(item, name, checkpoints)]
    return tuple(words)


def _word(value: Any, name: str, checkpoints: Mapping[str, str]) -> str:
    """A value as the command line reads it."""
    text = value if isinstance(value, str) else json.dumps(value)

    def checkpoint(match: re.Match[str]) -> str:
        if match[1] not in checkpoints:
            raise ValueError(f"{name}: {match[0]} stands for a checkpoint, but the cell has no {match[1]}")
        return checkpoints[match[1]]

    return _SOURCES.sub(checkpoint, text)
