"""Translation of a cell's stage and coordinates into commands."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from qra.coordinates import OVERRIDES, Axis
from qra.study.stages import FLOAT, Stage, Study, axis_options, scheme_option

_SOURCES = re.compile(r"\{(init|teacher)\}")


def commands(
    study: Study, stage: Stage, coordinates: Mapping[str, Any], directory: str, checkpoints: Mapping[str, str]
) -> tuple[tuple[str, ...], ...]:
    """Return the arguments that follow ``qra`` in each command of a cell.

    Args:
        study: The study.
        stage: The cell's stage.
        coordinates: Coordinates of the cell on all axes.
        directory: Directory that it writes to.
        checkpoints: Checkpoints that it starts from (``init``) and learns from (``teacher``), if any.

    Raises:
        ValueError: If an option needs a checkpoint that the cell does not have.
    """
    teacher = {} if stage.teacher is None else {"trainer.callbacks.teacher": "{teacher}"}
    axes = {
        **{name: coordinates[axis] for name, axis in axis_options(stage).items()},
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


def options_of(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return the options of a command with their values."""
    return list(zip(words[1::2], words[2::2], strict=True))


def _quantization(study: Study, stage: Stage, coordinates: Mapping[str, Any]) -> dict[str, Any]:
    scheme = scheme_option(stage)
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
    """Return a value in the form that the command line reads."""
    text = value if isinstance(value, str) else json.dumps(value)

    def checkpoint(match: re.Match[str]) -> str:
        if match[1] not in checkpoints:
            raise ValueError(f"{name}: {match[0]} stands for a checkpoint, but the cell has no {match[1]}")
        return checkpoints[match[1]]

    return _SOURCES.sub(checkpoint, text)


def _overrides(layers: str) -> dict[str, str]:
    """Return the patterns and bit widths of a coordinate such as ``stages.0.*=W8,fc=W8``."""
    pairs = (pair.split("=") for pair in layers.split(","))
    return {pattern: bits for pattern, bits in pairs}  # noqa: C416
