"""Checks of a parsed config before objects are made from it, and its preparation for saving."""

from __future__ import annotations

import os
from collections.abc import MutableMapping, Sequence
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from qra.front.arguments import CHECKPOINTS

PLACES = ("root", "path", "directory", "folder", "file", *CHECKPOINTS)
"""Names of arguments that are files or directories by convention; those annotated as paths are too."""


def run_directory(config: Namespace) -> Path:
    """Return the directory that a command writes to.

    That is ``--run`` if given. For a checkpoint in a run directory it is that directory, unless the command quantizes
    the checkpoint, which makes a different network. Otherwise it is ``runs/NAME``, where NAME is that of the first
    config file or, for a checkpoint that describes itself, that of the checkpoint and its directory.

    Raises:
        ValueError: If nothing names the run, or the checkpoint does not belong to the run in the directory.
    """
    if config.run is not None:
        return Path(config.run)
    own = config.ckpt_path not in (None, "last", "best") and not _makes_another_network(config)
    named = [config.ckpt_path] if own else []
    for path in map(Path, (*named, *map(str, config.config or ()))):
        is_run = (path.parent / "config.yaml").exists()
        if is_run or path.suffix in (".yaml", ".yml", ".json"):
            directory = path.parent if is_run else Path("runs", path.stem)
            if own and (directory / "last.ckpt").exists() and Path(config.ckpt_path).parent != directory:
                raise ValueError(f"{config.ckpt_path} is not from the run in {directory}: give a directory by --run")
            return directory
    if named:  # a checkpoint that describes itself, kept apart from a run of the same name
        path = Path(config.ckpt_path).resolve()
        return Path("runs") / f"{path.parent.name}-{path.stem}"
    raise ValueError("this run has no name: give --run DIRECTORY, or a config by --config FILE")


def _makes_another_network(config: Namespace) -> bool:
    """Return whether the command makes a different network from the checkpoint's, such as a quantized one."""
    paths = [callback.class_path.rpartition(".") for callback in config.trainer.callbacks or ()]
    kinds = [getattr(import_module(module), name) for module, _, name in paths]
    return any(getattr(kind, "makes_another_network", False) for kind in kinds)


def check_place(directory: Path) -> None:
    """Check that a run directory can be created.

    Raises:
        ValueError: If it, or a directory above it, is a file.
    """
    for place in (directory, *directory.parents):
        if place.exists() and not place.is_dir():
            raise ValueError(f"run: {place} is a file, so nothing can be written to {directory}: give another by --run")


_OURS = {
    "default_root_dir": (None, "give the directory by --run"),
    "enable_checkpointing": (None, "qra fit keeps best.ckpt and last.ckpt, other commands none: leave it out"),
    "inference_mode": (False, "attacks need gradients: leave it out"),
    "overfit_batches": (0, "overfit on a few images by --config debug/overfit"),
    "barebones": (False, "it would write no checkpoints and results"),
}
"""Settings of the trainer that qra makes itself, with the only value allowed besides None, and what to do instead."""
_STEPS = ("max_epochs", "max_steps", "limit_train_batches")
"""Settings of the trainer with which nothing is trained if they are 0."""
_AT_LEAST_ZERO = ("gradient_clip_val", "log_every_n_steps", "min_epochs", "min_steps")
_ABOVE_ZERO = ("accumulate_grad_batches", "check_val_every_n_epoch", "val_check_interval")
"""Settings whose meaningless values the trainer would accept, or divide by."""


def check_trainer(config: Namespace, command: str) -> None:
    """Reject settings of Lightning's trainer that would be silently overruled, or leave nothing to do.

    Raises:
        ValueError: If there are any; the message has the first one and what to do.
    """
    trainer = config.trainer
    for name, (usual, instead) in _OURS.items():
        if trainer[name] not in (usual, None):
            raise ValueError(f"trainer.{name} is {_word(trainer[name])}: {instead}")
    if isinstance(trainer.callbacks, Namespace):
        raise ValueError("trainer.callbacks is one callback, but a list is needed: add it by --trainer.callbacks+")
    used = _STEPS if command == "fit" else (f"limit_{command.replace('validate', 'val')}_batches",)
    for name in used:
        if type(trainer[name]) in (int, float) and trainer[name] == 0:
            raise ValueError(f"trainer.{name} is 0, so there is nothing to {command}: raise it or leave it out")
    for name in (*_AT_LEAST_ZERO, *_ABOVE_ZERO):
        value, positive = trainer[name], name in _ABOVE_ZERO
        if type(value) in (int, float) and not (value > 0 if positive else value >= 0):
            raise ValueError(f"trainer.{name} is {value}: it must be {'above' if positive else 'at least'} 0")


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_weights(config: Namespace, command: str, words: Sequence[str]) -> None:
    """Refuse to measure untrained weights unless that is requested.

    Args:
        config: Config of the command. Its ``init_from``, where the training of the checkpoint started, is removed, and
            so is the ``weights_key`` of that file.
        command: ``test``, ``validate`` or ``predict``.
        words: The command line; a ``--weights_key`` there belongs to the checkpoint.

    Raises:
        ValueError: If there is no checkpoint; the message says what to use.
    """
    start = config.model.init_args.get("init_from")
    if config.ckpt_path is None and start is not None:
        raise ValueError(f"init_from only starts a training: to {command} a checkpoint, use --ckpt_path {start}")
    if config.ckpt_path is None and not config.untrained:
        raise ValueError(
            f"the network has no trained weights: {command} a checkpoint by --ckpt_path FILE, or random weights by "
            "--untrained true"
        )
    if start is not None:
        config.model.init_args.init_from = None
        if all(word.partition("=")[0] != "--weights_key" for word in words):
            config.weights_key = None


def check_dry_run(config: Namespace, command: str) -> None:
    """Check that a dry run makes sense.

    Raises:
        ValueError: If the command has no dry run, or ``fast_dev_run`` is set.
    """
    if command not in ("fit", "test"):
        raise ValueError(
            f"--dry_run is an option of qra fit, qra test and qra study run: leave it out of qra {command}"
        )
    if config.trainer.fast_dev_run:
        raise ValueError("--dry_run writes and trains nothing, --trainer.fast_dev_run tries a few batches: give one")


def with_absolute_paths(value: Any) -> Any:
    """Make relative paths of existing files absolute, in place, so that a config works from any directory."""
    if isinstance(value, MutableMapping | Namespace):
        for key, item in dict(value.items()).items():
            named = str(key).rpartition(".")[2] in PLACES
            is_place = isinstance(item, os.PathLike) or (isinstance(item, str) and named)
            value[key] = str(Path(item).absolute()) if is_place and Path(item).exists() else with_absolute_paths(item)
    elif isinstance(value, list):
        value[:] = map(with_absolute_paths, value)
    return value.value if isinstance(value, Enum) and isinstance(value, str) else value  # defaults of Lightning's


def without_notes(config: Any) -> Any:
    """Return a parsed config without the parser's own entries, such as the paths of files."""
    if isinstance(config, dict):
        return {key: without_notes(value) for key, value in config.items() if not str(key).startswith("__")}
    return [without_notes(item) for item in config] if isinstance(config, list | tuple) else config
