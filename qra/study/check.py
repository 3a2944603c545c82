"""Checks before the first cell of a study runs: all commands are parsed and their objects made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from qra.coordinates import Axis
from qra.front.shipped import checkpoint_file
from qra.front.yaml_files import leaves, read_value, whole_config
from qra.study.commands import options_of
from qra.study.grid import Cell
from qra.study.stages import Stage, Study, owned_options, same_option

Parse = Callable[[Sequence[str], bool], None]
"""Parses a command without running it and, if asked to, makes its objects; raises ValueError if something is wrong."""

_CHECKED = {Axis.SEED, Axis.FRACTION, Axis.CALIBRATION_SIZE, Axis.INIT, "bits", "name"}
"""Keys whose values are already checked when the cells are made."""
_STARTS = ("--ckpt_path", "--model.init_args.init_from")


class Parsable(NamedTuple):
    """A command in the form in which it can be parsed before its cell has a checkpoint.

    Attributes:
        words: Arguments that follow ``qra``.
        whole: Whether its objects can be made, because none of them needs a checkpoint that does not exist yet.
    """

    words: list[str]
    whole: bool


def check_commands(study: Study, cells: Iterable[Cell], parse: Parse) -> None:
    """Parse the commands of cells; of commands that differ only in values that were checked already, only the first.

    Raises:
        ValueError: If a command cannot be parsed; the message names the cell and says what is wrong.
    """
    checked = {stage.name: _checked(study, stage) for stage in study.stages}
    known: set[tuple[str, ...]] = set()
    for cell in cells:
        for words, whole in parsable(cell):
            kind = _told_apart(words, checked[cell.stage])
            if kind not in known:
                try:
                    parse(words, whole)
                except ValueError as reason:
                    raise ValueError(f"cell {cell.name}: {reason}") from None
            known.add(kind)


def check_checkpoints(study: Study, cells: Sequence[Cell]) -> None:
    """Check that every checkpoint exists or is made by one of the cells.

    Raises:
        ValueError: If one does not and is not; the message has the key that names it.
    """
    sources = {path: f"sources.{name}" for name, path in study.sources.items()}
    made = {cell.checkpoint for cell in cells}
    for cell in cells:
        for name, value in (option for command in cell.commands for option in options_of(command)):
            for path in _absent(value):
                if path not in made:
                    key = sources.get(path, name.removeprefix("--"))
                    raise ValueError(
                        f"{key}: there is no checkpoint {path}, which cell {cell.name} needs: correct its path, "
                        "or put the file there"
                    )


def parsable(cell: Cell) -> Iterator[Parsable]:
    """Yield the commands of a cell as they can be parsed before it has a checkpoint: with its training's pipeline."""
    first = cell.commands[0]
    yield _parsable(first[0], options_of(first))
    for command in cell.commands[1:]:
        yield _parsable(command[0], [*options_of(first), *options_of(command)])


def _parsable(command: str, options: Sequence[tuple[str, str]]) -> Parsable:
    """Return a command without the options that name a checkpoint which an earlier cell will make."""
    needed = [(name, value) for name, value in options if name not in _STARTS]
    there = [(name, value) for name, value in needed if _is_object(value) or not _absent(value)]
    whole = not any(_absent(value) for _, value in needed)
    return Parsable([command, *(word for option in there for word in option)], whole)


def _absent(value: str) -> list[str]:
    """Return the checkpoints in an option's value that do not exist."""
    try:
        content = read_value(value) if _is_object(value) else value
    except ValueError:
        return []  # parsing reports it
    paths = [path for _, path in leaves(content) if isinstance(path, str) and path.endswith(".ckpt")]
    return [path for path in paths if not Path(checkpoint_file(path)).is_file()]


def _is_object(value: str) -> bool:
    return value.startswith(("{", "["))


def _checked(study: Study, stage: Stage) -> set[str]:
    """Return the options whose values are checked when cells are made: bit widths only for quantizers of qra."""
    schemes = [whole_config(study.quantizers[name]) for name in stage.quantizer if name in study.quantizers]
    classes = [str(value) for scheme in schemes for key, value in leaves(scheme) if key.endswith("class_path")]
    keys = _CHECKED if all(each.startswith("qra.") for each in classes) else _CHECKED - {"bits"}
    return {name for name, key in owned_options(stage).items() if key in keys}


def _told_apart(words: Sequence[str], checked: set[str]) -> tuple[str, ...]:
    """Return a command without the values that are checked elsewhere."""
    told = ((name, "" if same_option(name.lstrip("-")) in checked else value) for name, value in options_of(words))
    return (words[0], *(word for option in told for word in option))
