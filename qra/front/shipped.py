"""The configs that come with the package, and the short names by which they are called on a command line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

DIRECTORY = Path(__file__).parents[1] / "configs"
PACKAGE_ROOT = Path(__file__).parents[2]
PUBLISHED = "checkpoints/"
"""Directory of the published checkpoints in a clone."""
SUFFIXES = (".yaml", ".yml")
ELSEWHERE = ("study",)
"""Folders whose configs are not values of options."""
FOLDERS = {
    "config": ("pipeline", "trainer", "debug"),
    "data": ("data",),
    "network": ("network",),
    "scheme": ("quant",),
    "attack": ("attack",),
    "val_attack": ("attack",),
    "transfer": ("transfer",),
    "optimizer": ("optim",),
    "schedule": ("optim",),
    "callbacks": ("callback",),
    "callbacks+": ("callback",),
}
"""Folders of the configs that an option may be given, by the last part of its name."""
_USES = {
    "attack": "--model.attack",
    "callback": "--trainer.callbacks+",
    "data": "--data",
    "network": "--model.network",
    "optim": "--model.optimizer or --model.schedule",
    "quant": "--model.scheme",
    "study": "qra study run",
    "transfer": "--model.transfer",
}
"""What takes the configs of a folder, where it is not ``--config``."""

_NAME = re.compile(r"[\w-]+/[\w.-]+")
_PLACES = ("run", "out", "runs", "root")
"""Options whose value is a directory, even if it looks like a config."""


@cache
def configs() -> Mapping[str, Path]:
    """Return the paths of the shipped configs by name, such as ``pipeline/float-at``."""
    files = sorted(DIRECTORY.glob("*/*.yaml"))
    return {f"{file.parent.name}/{file.stem}": file for file in files}


def first_comment(file: Path) -> str:
    """Return the first line of a config if it is a comment, without its mark; else an empty string."""
    line = file.read_text().partition("\n")[0]
    return line.lstrip("# ") if line.startswith("#") else ""


def located(name: str) -> str:
    """Return the file that a name refers to: one in the working directory if there is one, else a shipped one.

    Args:
        name: A path, or the bare name of a shipped config; anything else is returned unchanged.

    Raises:
        ValueError: If two files fit the name, or it can only be a config's and there is none of that name.
    """
    if name.startswith(("{", "[")):  # a value in JSON or YAML, which may be longer than paths can be
        return name
    here = [file for file in (name, *(f"{name}{suffix}" for suffix in SUFFIXES)) if Path(file).is_file()]
    if len(here) > 1:
        raise ValueError(f"{name}: there is both {here[0]} and {here[1]}: write the whole name of one of them")
    if here or not _NAME.fullmatch(name):
        return here[0] if here else name
    if name in configs():
        return str(configs()[name])
    folder = name.partition("/")[0]
    if name.endswith(SUFFIXES) or Path(name).exists() or not (DIRECTORY / folder).is_dir():
        return name
    raise ValueError(f"there is no config {name}{hint(name)}")


def located_after(option: str, words: Sequence[str]) -> list[str]:
    """Return the arguments with each config name that is the value of ``option`` replaced by its file."""
    words = [part for word in words for part in (word.split("=", 1) if word.startswith(f"{option}=") else [word])]
    before = ["", *words]
    for place, word in enumerate(words):
        if before[place] == option:
            check_folder(option, word)
    return [located(word) if before[place] == option else word for place, word in enumerate(words)]


def hint(name: str) -> str:
    """Return what may have been meant by the name of a missing config, as the end of a sentence."""
    words = name.removeprefix("configs/")
    for suffix in SUFFIXES:
        words = words.removesuffix(suffix)
    same = [known for known in configs() if known == words or known.partition("/")[2] == words]
    meant = " or ".join(same or difflib.get_close_matches(words, configs(), 1))
    return f": did you mean {meant}? qra configs lists them" if meant else "; qra configs lists them"


def last_key(option: str) -> str:
    """Return the last part of an option's name, such as ``eps`` of ``--model.attack.eps``."""
    return option.lstrip("-").rstrip("+").rpartition(".")[2]


def takes_config(option: str, value: str) -> bool:
    """Return whether the value of an option may be the name of a config.

    Args:
        option: Name of the option with its dashes.
        value: Value of the option; except after ``--data``, a name like ``data/cifar10`` is that of a directory.
    """
    key, folder = last_key(option), value.partition("/")[0]
    return key not in _PLACES and folder not in ELSEWHERE and (folder != "data" or key == "data")


def check_folder(option: str, name: str) -> None:
    """Reject a shipped config of another kind than an option takes.

    Args:
        option: Name of the option with its dashes.
        name: Value as it was typed.

    Raises:
        ValueError: If it is of another kind; the message says what takes it.
    """
    taken, folder = FOLDERS.get(last_key(option)), name.partition("/")[0]
    if taken and name in configs() and folder not in taken and not Path(name).exists():
        use = _USES.get(folder, "--config")
        raise ValueError(f"{option} takes configs of {' or '.join(taken)}: {name} is for {use}")


def bare_name(path: str | Path) -> str | None:
    """Return the name of a shipped config; None for any other file."""
    file = Path(path).resolve()
    name = f"{file.parent.name}/{file.stem}"
    return name if name in configs() and file == configs()[name].resolve() else None


def checkpoint_file(path: str) -> str:
    """Return the file of a checkpoint, adding a missing suffix; those published in a clone are found from anywhere."""
    if Path(path).exists():
        return path
    for place in (Path(), PACKAGE_ROOT):
        for name in (path, f"{path}.ckpt"):
            if name.endswith(".ckpt") and (place / name).is_file() and (place == Path() or name.startswith(PUBLISHED)):
                return str(place / name)
    return path
