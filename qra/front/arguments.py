"""Preparation of the arguments of ``qra fit | validate | test | predict`` before they are parsed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from qra import renamed
from qra.front import shipped
from qra.front.options import advice, all_options
from qra.front.yaml_files import check_config, check_part, is_config, read_yaml

CONFIG = ("--config", "-c")
FLAGS = ("--help", "-h", "--print_config")
ALONE = ("--dry_run", "--untrained")
"""Options that mean ``true`` without a value."""
CHECKPOINTS = ("ckpt_path", "init_from", "teacher", "surrogate", "source", "checkpoint")
"""Options whose value is a checkpoint."""
FROM_CHECKPOINT = "qra.modules.FromCheckpoint"
"""The model class that is rebuilt from a checkpoint."""

_OPTION = re.compile(r"--?[A-Za-z]")


class Given(NamedTuple):
    """An option and its value; the value is None for a flag."""

    name: str
    value: str | None

    @property
    def key(self) -> str:
        """Last part of the option's name."""
        return shipped.last_key(self.name)

    def words(self) -> list[str]:
        """Return the words for the parser; a value that begins with a minus is joined, so as not to look like one."""
        if self.value is None:
            return [self.name]
        return [f"{self.name}={self.value}"] if self.value.startswith("-") else [self.name, self.value]


def prepared(arguments: Sequence[str]) -> list[str]:
    """Return the arguments to parse, with names of configs replaced by their files, and configs before other options.

    Options therefore override configs wherever they stand, and a key overrides a config of its parent, such as
    ``--data.root`` over ``--data``. A command on a checkpoint without a config that has a model takes the
    ``config.yaml`` beside the checkpoint, or else the checkpoint's own description.

    Args:
        arguments: The command and its options.

    Raises:
        ValueError: If a word is not an option, a value is missing or empty, a config cannot be read, or the options
            make no sense for the command.
    """
    command, options = arguments[0], [_located(option) for option in _options(arguments[0], arguments[1:])]
    if any(option.name in ("-h", "--help") or option.key == "help" for option in options):
        return list(arguments)
    for option in options:
        if option.name in CONFIG:
            check_config(option.value or "")
        elif is_config(option.value) and shipped.takes_config(option.name, option.value or ""):
            check_part(option.value or "")
    if command != "fit":
        _refuse_init_from(command, options)
    options = [*_of_checkpoint(options), *options]
    first = [option for option in options if option.name in CONFIG]
    rest = _wholes_first(option for option in options if option not in first)
    return [command, *(word for option in (*first, *rest) for word in option.words())]


def config_files(words: Sequence[str]) -> list[str]:
    """Return the configs among prepared arguments, in order."""
    return [value for name, value in pairwise(words) if name in CONFIG]


def _options(command: str, words: Sequence[str]) -> Iterator[Given]:
    left = list(words)
    while left:
        word = left.pop(0)
        if not _OPTION.match(word):
            close = f"--config {word}" if _is_config_name(word) else "--NAME VALUE"
            raise ValueError(f"{word!r} belongs to no option: write {close}")
        name, equals, value = word.partition("=")
        if name in FLAGS or name.endswith(".help"):
            yield Given(word, left.pop(0) if name.endswith(".help") and left and not _OPTION.match(left[0]) else None)
            continue
        if name in ALONE and not equals and (not left or _OPTION.match(left[0])):
            value = "true"
        elif not equals:
            if not left or _OPTION.match(left[0]):
                if name not in all_options(command):
                    raise ValueError(f"{command} has no option {name}: {advice(name, command)}")
                raise ValueError(f"{name}: its value is missing")
            value = left.pop(0)
        if not value.strip():
            raise ValueError(f"{name}: its value is empty: give one or leave the option out")
        yield Given(name, value)


def _is_config_name(word: str) -> bool:
    return word in shipped.configs() or word.endswith(shipped.SUFFIXES)


def _wholes_first(options: Iterable[Given]) -> list[Given]:
    """Keep options in order, but put each config of a subtree before the options that set a part of it."""
    ordered: list[Given] = []
    for option in options:
        whole = f"{option.name}." if is_config(option.value) else None
        parts = (place for place, other in enumerate(ordered) if whole and other.name.startswith(whole))
        ordered.insert(next(parts, len(ordered)), option)
    return ordered


def _located(option: Given) -> Given:
    if option.value is None:
        return option
    name = option.name.removeprefix("--")
    name, value = option.name.replace(name, renamed.key(name)), renamed.class_path(option.value)
    if option.key in CHECKPOINTS:
        value = shipped.checkpoint_file(value)
    else:
        shipped.check_folder(name, value)
        if shipped.takes_config(name, value):
            value = shipped.located(value)
    return Given(name, value)


def _refuse_init_from(command: str, options: Sequence[Given]) -> None:
    for option in options:
        inside = option.name.startswith("--model") and "init_from" in re.findall(r"\w+(?=['\"]?:)", option.value or "")
        if option.key == "init_from" or inside:
            file = "FILE" if inside else option.value
            raise ValueError(f"init_from only starts a training: to {command} a checkpoint, use --ckpt_path {file}")


def _of_checkpoint(options: Sequence[Given]) -> list[Given]:
    """Return options that stand for the checkpoint's own config, if nothing else says what the model is."""
    given = [option.value or "" for option in options if option.name == "--ckpt_path"]
    path = Path(given[-1]) if given else None  # if an option is repeated, the last one counts
    if path is None or str(path) in ("last", "best") or any(map(_names_model, options)):
        return []
    if not path.exists():
        raise ValueError(f"{path}: there is no such checkpoint")
    if path.is_dir():
        raise ValueError(f"{path} is a directory: name a checkpoint in it, such as {path / 'best.ckpt'}")
    beside = path.parent / "config.yaml"
    if beside.exists():
        check_config(beside)
        return [Given("--config", str(beside))]
    return [Given("--model", FROM_CHECKPOINT), Given("--model.checkpoint", str(path))]


def _names_model(option: Given) -> bool:
    if option.name in CONFIG:
        content = read_yaml(option.value or "")
        return isinstance(content, dict) and "model" in content
    return option.name in ("--model", "--model.class_path")
