"""The structure of a study: stages of one pipeline each, whose axes span cells."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from qra.checks import check_count, check_in
from qra.coordinates import OVERRIDES, Axis

FLOAT = "float"
"""The quantizer name that means: not quantized."""
RANDOM = "random"
"""The source name that means: randomly initialized."""

TRAININGS = ("none", "plain", "adversarial", "transfer")
"""Usual kinds of training."""

LONGEST = 255
"""Maximum length of a file name, in bytes."""
_AXES = (*Axis, OVERRIDES)


@dataclass(frozen=True)
class Stage:
    """The cells of one pipeline: every combination of the values on its axes.

    Args:
        name: Name of the stage, with which the names of its cells begin.
        pipeline: Config of the run, relative to the file of the study.
        training: How the pipeline trains: ``plain``, ``adversarial``, ``transfer``, or a name of your own for a method
            whose class says whether it ``is_adversarial``. ``none`` only tests the checkpoint it starts from, quantized
            or not.
        init: What the network starts from: ``random``, or sources of the study.
        quantizer: ``float``, or quantizers of the study. A float cell has no bit widths and is made only once.
        bits: Bit widths of weights and activations, such as ``W4A8``; 32 leaves one of them float.
        overrides: Bit widths of single layers by patterns on their names, such as ``{fc: W8}``; ``{}`` for none.
        fraction: Fractions of the training images that are used; those of the study by default.
        calibration_size: Numbers of calibration images; those of the study by default.
        seed: Seeds; those of the study by default. If the stage trains, they determine initialization and the order of
            the images, otherwise the choice of calibration images.
        axes: Any further options of the command line, each with its values.
        teacher: Source that a transfer learns from.
        options: Options of the pipeline's command, by name.
        test: Options of the cells' ``qra test``, in addition to those of the study.
        coordinates: Coordinates that reports use where the axes and the class of the model do not tell, such as the
            ``training`` of a checkpoint that is only tested.
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
    """A list of stages with the sources, quantizers and options that they use.

    Options of the command line are written without the leading dashes. In their values ``{init}`` and ``{teacher}``
    stand for the checkpoints that a cell starts and learns from, and paths of YAML files are relative to the study's.

    Args:
        name: Name of the directory under ``runs``; that of the file by default.
        stages: The stages; each may start from earlier ones.
        sources: Networks that cells start or learn from, by name: a stage, or the path of a checkpoint.
        quantizers: Config of each quantizer, by name: a scheme for stages that train, a callback for those that do not.
        fraction: Fractions of the training images that are used.
        calibration_size: Numbers of calibration images.
        seed: Seeds; see :class:`Stage`.
        options: Options of every pipeline's command.
        test: Options of every ``qra test``, that is, the attacks.
        threads: Number of threads of a cell; results on the CPU depend on it.
        gpus: Number of GPUs per cell on a Ray cluster, or a fraction of one.
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
        _check_name("name", self.name)
        check_count("threads", self.threads)
        check_in("gpus", self.gpus, "[0, inf)")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus is {self.gpus}: a cell takes a share of one GPU, up to 1, or whole ones")
        for stage in self.stages:
            _check_stage(stage)
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{names.count(name)} stages are named {name}")
        for name, source in self.sources.items():
            if source not in names and not source.endswith(".ckpt"):
                raise ValueError(
                    f"sources.{name}: no stage makes {source!r}; name a stage ({', '.join(names)}) or a .ckpt file"
                )


def axis_options(stage: Stage) -> dict[str, str]:
    """Return the options that take a coordinate of the stage's cells as it is, with its axis."""
    return {
        "data.init_args.fraction": Axis.FRACTION,
        "data.init_args.calibration_size": Axis.CALIBRATION_SIZE,
        "seed_everything": Axis.SEED,
        "data.init_args.split_seed" if stage.training == "none" else "data.init_args.seed": Axis.SEED,
    }


def owned_options(stage: Stage) -> dict[str, str]:
    """Return the options that only keys of a stage may set, in canonical spelling, with the key that sets each."""
    scheme = scheme_option(stage)
    owned = {
        **axis_options(stage),
        "model.init_args.init_from": Axis.INIT,
        "ckpt_path": Axis.INIT,
        "trainer.callbacks.teacher": "teacher",
        "config": "pipeline",
        "run": "name",
        f"{scheme}.{Axis.WEIGHT_BITS}": "bits",
        f"{scheme}.{Axis.ACT_BITS}": "bits",
        f"{scheme}.{OVERRIDES}": "overrides",
    }
    return {same_option(name): key for name, key in owned.items()}


def same_option(name: str) -> str:
    """Return the canonical spelling of an option."""
    return name.replace(".init_args", "")


def scheme_option(stage: Stage) -> str:
    """Return the option that takes the scheme of a stage's cells."""
    return "trainer.callbacks.scheme" if stage.training == "none" else "model.init_args.scheme"


def _check_stage(stage: Stage) -> None:
    _check_name("stage", stage.name)
    if not stage.training.strip():
        raise ValueError(f"stage {stage.name}: training is empty: write {', '.join(TRAININGS)} or a name of your own")
    place = f"stage {stage.name}: coordinates"
    _check_spelling(f"stage {stage.name}: training", stage.training, TRAININGS, 0.75)
    for axis in stage.coordinates:
        _check_spelling(place, axis, _AXES, 0.85)
    _check_spelling(f"{place}: training", stage.coordinates.get(Axis.TRAINING, "none"), TRAININGS, 0.75)
    kind = stage.coordinates.get(Axis.ADVERSARIAL, "true")
    if kind not in ("true", "false"):
        raise ValueError(f"{place}: {Axis.ADVERSARIAL} is {kind!r}: write true or false")


def _check_name(what: str, name: str) -> None:
    """Reject a name that no directory could have, or that would lead elsewhere."""
    plain = name.isprintable() and not set(name) & set("/\\") and name.strip(" .")
    if not plain or len(name.encode()) > LONGEST:
        raise ValueError(f"{what} {name!r:.60} is not a plain directory name: use letters, digits, - and _")


def _check_spelling(where: str, word: str, known: Sequence[str], closeness: float) -> None:
    """Reject a misspelling of a known word; words unlike any known one are names of the user's own."""
    meant = difflib.get_close_matches(word.lower(), known, 1, closeness)
    if meant and word not in known:
        raise ValueError(f"{where} {word!r}: did you mean {meant[0]}?")
