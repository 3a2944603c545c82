"""Every command of a study is parsed before its first cell runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from qra.coordinates import Axis
from qra.study.grid import Cell

Parse = Callable[[Sequence[str]], None]
"""Parses a command without running it; raises ValueError with the key that is wrong."""

_NUMBERS = (Axis.WEIGHT_BITS, Axis.ACT_BITS, Axis.FRACTION, Axis.CALIBRATION_SIZE, Axis.SEED, "split_seed", "run")
"""Last parts of options whose values differ by cell and are checked when the cells are made."""


def check_commands(cells: Iterable[Cell], parse: Parse) -> None:
    """Parse the commands of cells; of commands that differ only in values that were parsed already, the first.

    Args:
        cells: Cells of a study that are to be run.
        parse: Function that parses the words of a command, and refuses wrong ones.

    Raises:
        ValueError: If a command cannot be parsed, with the cell and what is wrong.
    """
    known: set[tuple[str, str]] = set()
    for cell in cells:
        for words in without_checkpoints(cell):
            options = set(_told_apart(words))
            if not options <= known:
                try:
                    parse(words)
                except ValueError as reason:
                    raise ValueError(f"cell {cell.name}: {reason}") from None
            known |= options


def without_checkpoints(cell: Cell) -> Iterator[list[str]]:
    """The commands of a cell as they can be parsed before it has a checkpoint: with the pipeline of its training."""
    first = cell.commands[0]
    yield [first[0], *_there(first[1:])]
    for command in cell.commands[1:]:
        yield [command[0], *_there(first[1:]), *_there(command[1:])]


def _there(options: Sequence[str]) -> list[str]:
    """Options without those that name a checkpoint which an earlier cell will make."""
    pairs = zip(options[::2], options[1::2], strict=True)
    starts = ("--ckpt_path", "--model.init_args.init_from")
    return [
        word
        for name, value in pairs
        if name not in starts and (not value.endswith(".ckpt") or Path(value).exists())
        for word in (name, value)
    ]


def options_of(words: Sequence[str]) -> list[tuple[str, str]]:
    """The options of a command, each with its value."""
    return list(zip(words[1::2], words[2::2], strict=True))


def _told_apart(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The options of a command, without values that are checked elsewhere."""
    options = options_of(words)
    place = " ".join([words[0], *(value for name, value in options if name == "--config")])
    for name, value in options:
        yield f"{place} {name}", "" if name.rpartition(".")[2].lstrip("-") in (*_NUMBERS, "seed_everything") else value
