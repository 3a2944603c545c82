"""Reading a study, and the definition of a cell: the contents of everything that its commands name."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from qra.checkpoint import sha256
from qra.describe import digest, without_empty
from qra.errors import one_line
from qra.front.shipped import bare_name, configs, located
from qra.front.yaml_files import check_config, is_config, read_yaml, whole_config
from qra.study.commands import options_of
from qra.study.grid import Cell
from qra.study.kinds import with_kind
from qra.study.stages import Stage, Study, owned_options, same_option


def load_study(path: str | Path, settings: Sequence[str] = ()) -> Study:
    """Read a study.

    Args:
        path: A YAML file, or the name of a shipped study; paths of YAML files in it are relative to it.
        settings: Options for every pipeline's command in addition to those of the study, as ``name=value``.

    Raises:
        ValueError: If it cannot be read, has unknown keys or wrong values, names files that do not exist, or sets an
            option both in a pipeline and by an axis.
    """
    given, path = str(path), Path(located(str(path)))
    content = _located(read_yaml(path), path.parent, by_name=given in configs() and given != str(path))
    if not isinstance(content, dict) or not isinstance(content.get("stages"), list):
        raise ValueError(f"{path}: is not a study: it has no list of stages")
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not (name and equals):
            raise ValueError(f"--set {setting}: write NAME=VALUE")
        if isinstance(options := content.get("options") or {}, dict):
            content["options"] = {**options, name: value}
    stages = [_parsed(Stage, stage, f"{path}: stage {number}") for number, stage in enumerate(content["stages"], 1)]
    fields = _parsed(Study, {"name": path.stem, **content, "stages": []}, str(path))
    try:
        study = Study(**fields | {"stages": [Stage(**stage) for stage in stages]})
        for pipeline in dict.fromkeys(located(stage.pipeline) for stage in study.stages):
            check_config(pipeline)
        for stage, given in zip(study.stages, content["stages"], strict=True):
            _check_set_once(stage, stage.pipeline, read_yaml(located(stage.pipeline)))
            for options in (content.get("options") or {}, given.get("options") or {}):
                inside = {name: value for name, value in options.items() if isinstance(value, dict)}
                _check_set_once(stage, "options", inside)  # of the file: parsing adds defaults
        study = dataclasses.replace(study, stages=[with_kind(study, stage) for stage in study.stages])
    except ValueError as reason:
        raise ValueError(f"{path}: {reason}") from None
    return study


def _parsed(kind: type, content: Any, where: str) -> dict[str, Any]:
    """Return the fields of a dataclass, with their types checked."""
    if not isinstance(content, dict):
        raise ValueError(f"{where} is not a mapping of keys")
    if isinstance(content.get("name"), str) and kind is Stage:
        where = f"{where} ({content['name']})"
    known = [field.name for field in dataclasses.fields(kind)]
    for key, value in content.items():
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}; the keys are {', '.join(known)}")
        for name in _keys(value):
            if not isinstance(name, str):
                raise ValueError(f"{where}: {key}: its key {name!r} is not text: write it in quotes")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    given = {key: _worded(value) if key == "coordinates" else value for key, value in content.items()}
    given = copy.deepcopy(given)  # parsing changes it
    try:
        fields: dict[str, Any] = parser.parse_object({k: v for k, v in given.items() if v is not None}).as_dict()
    except argparse.ArgumentError as reason:
        raise ValueError(f"{where}: {one_line(reason)}") from None
    return fields


def _keys(value: Any) -> list[Any]:
    """Return the keys of a mapping, or of all mappings in a list."""
    mappings = value if isinstance(value, list) else [value]
    return [key for mapping in mappings if isinstance(mapping, dict) for key in mapping]


def _worded(coordinates: Any) -> Any:
    """Return coordinates with booleans, which YAML makes of ``true`` and ``false``, turned back into words."""
    if not isinstance(coordinates, dict):
        return coordinates
    return {axis: str(value).lower() if isinstance(value, bool) else value for axis, value in coordinates.items()}


def _located(value: Any, directory: Path, by_name: bool) -> Any:
    """Replace paths of YAML files relative to a directory by paths relative to the working directory, or by names."""
    if isinstance(value, dict):
        return {key: _located(item, directory, by_name) for key, item in value.items()}
    if isinstance(value, list):
        return [_located(item, directory, by_name) for item in value]
    if is_config(value) and not Path(value).is_absolute():
        return (bare_name(directory / value) if by_name else None) or os.path.normpath(directory / value)
    return value


def _check_set_once(stage: Stage, place: str, content: Any) -> None:
    """Reject a setting of an axis in a pipeline's file or an option's value; files that these name are defaults."""
    axes = owned_options(stage) | {same_option(name): "axes" for name in stage.axes}
    for name in _names(content):
        if same_option(name) in axes:
            axis = axes[same_option(name)]
            raise ValueError(f"stage {stage.name}: {name} is set by {place} and by {axis}: remove it there")


def _names(content: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _names(value, f"{prefix}.{key}".lstrip("."))
    else:
        yield prefix


def define(cells: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    """Return what defines each cell: for each of its commands, the options with the contents of the files they name.

    Args:
        cells: The cells, each after those that it needs.

    Returns:
        Definitions by cell name, ready for JSON, with the keys ``fit`` and ``test``. A checkpoint that a cell makes is
        replaced by the digest of the command that makes it, any other by its SHA-256.

    Raises:
        ValueError: If a config does not exist.
    """
    made: dict[str, str] = {}
    definitions = {}
    for cell in cells:
        definitions[cell.name] = {c[0]: without_empty(_definition(c, cell, made)) for c in cell.commands}
        first = cell.commands[0][0]
        made[cell.checkpoint] = f"{cell.name} {digest(definitions[cell.name][first])}"
    return definitions


def _definition(command: Sequence[str], cell: Cell, made: Mapping[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in options_of(command):
        key = name.removeprefix("--")
        if key == "run" or value == cell.checkpoint:
            continue
        while key in options:  # a further callback
            key += "'"
        if value in made:
            options[key] = made[value]
        elif value.endswith(".ckpt"):
            options[key] = _file_digest(value)
        else:
            options[key] = whole_config(value) if is_config(value) or value in configs() else value
    return options


@cache
def _file_digest(path: str) -> str:
    return sha256(path) if Path(path).exists() else f"{path}, which does not exist"
