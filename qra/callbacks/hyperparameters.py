"""The hyperparameters that distinguish runs, as short values for a logger's table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qra.coordinates import Axis
from qra.files import plain, read_json
from qra.front.yaml_files import read_yaml

Word = str | int | float | bool
LONGEST = 160
"""Maximum number of characters of a value."""
_PARTS = {
    "training": "model",
    "network": "model.init_args.network",
    "attack": "model.init_args.attack",
    "transfer": "model.init_args.transfer",
    "val_attack": "model.init_args.val_attack",
    "optimizer": "model.init_args.optimizer",
    "schedule": "model.init_args.schedule",
    "scheme": "model.init_args.scheme",
    "data": "data",
}
"""Columns that hold the class of a config part, with its scalar arguments, and the path of the part."""
_VALUES = {
    "lr": "model.init_args.optimizer.init_args.lr",
    "init_from": "model.init_args.init_from",
    "epochs": "trainer.max_epochs",
    "precision": "trainer.precision",
    "batch_size": "data.init_args.batch_size",
    "fraction": "data.init_args.fraction",
    "seed": "seed_everything",
}
"""Columns that hold a single value of a config, and its path."""
STUDY = "study/"
"""Prefix of the columns that hold a coordinate of a study."""
_TEXTS = (Axis.INIT, Axis.QUANTIZER, Axis.TRAINING, Axis.ADVERSARIAL)
COLUMNS = (*_PARTS, *_VALUES, "checkpoint", *(f"{STUDY}{axis}" for axis in Axis))
"""All columns except those of a study's additional axes."""
NUMBERS = ("lr", "epochs", "batch_size", "fraction", "seed", *(f"{STUDY}{a}" for a in Axis if a not in _TEXTS))
"""Columns of numbers."""


def hyperparameters(config: Mapping[str, Any], directory: Path) -> dict[str, Word]:
    """Return the columns of a run: its training, attack, optimizer, scheme, data, and its place in a study.

    Args:
        config: Config of the command.
        directory: Directory of the run. For a test, ``config.yaml`` there says how the network was trained; for a cell
            of a study, ``cell.json`` has the coordinates.
    """
    trained = _training(directory) or config
    values = {name: _at(trained, path) for name, path in _VALUES.items()}
    parts = {name: words(_at(trained, path)) for name, path in _PARTS.items()} | {"training": _training_words(trained)}
    found = {**parts, **values, "checkpoint": config.get("ckpt_path"), **_coordinates(directory)}
    return {name: value for name, value in found.items() if isinstance(value, Word) and value != ""}


def _training_words(config: Mapping[str, Any]) -> str:
    """Describe the training by its arguments that have no columns of their own."""
    model = _at(config, _PARTS["training"])
    arguments = _at(model, "init_args")
    own = {path.removeprefix("model.init_args.") for path in (*_PARTS.values(), *_VALUES.values())}
    left = {key: value for key, value in arguments.items() if key not in own} if isinstance(arguments, Mapping) else {}
    return words({**model, "init_args": left}) if isinstance(model, Mapping) else ""


def words(part: Any) -> str:
    """Describe a config part by its class and scalar arguments, such as ``PGD(eps=8/255, steps=10)``."""
    if not isinstance(part, Mapping) or "class_path" not in part:
        return ""
    name = str(part["class_path"]).rpartition(".")[2]
    given = part.get("init_args")
    arguments = given.items() if isinstance(given, Mapping) else ()
    inner = [words(value) for _, value in arguments]
    told = [f"{key}={value}" for key, value in arguments if isinstance(value, Word) and name != "SyntheticDataModule"]
    text = plain(f"{name}({', '.join((*told[:6], *filter(None, inner[:2])))})".replace("()", ""))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _training(directory: Path) -> Mapping[str, Any] | None:
    """Return the config that the network of a run directory was trained with, or None if there is none."""
    try:
        content = read_yaml(directory / "config.yaml")
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _coordinates(directory: Path) -> dict[str, Any]:
    """Return the coordinates of a cell in its study, one entry per axis."""
    try:
        content = read_json(directory / "cell.json", follow=False)
    except (OSError, ValueError):
        return {}
    found = content.get("coordinates") if isinstance(content, dict) else None
    return {f"{STUDY}{plain(str(axis))}": value for axis, value in found.items()} if isinstance(found, dict) else {}


def _at(config: Any, path: str) -> Any:
    """Return the value at a dotted path, or None if there is none."""
    for key in path.split("."):
        config = config.get(key) if isinstance(config, Mapping) else None
    return config
