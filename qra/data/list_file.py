"""Text files that name the images of a data set, one a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from qra.data.listing import ImageFiles
from qra.files import read_text

_DIGITS = 6
"""Digits of a class number, at most."""


def read_list(file: Path, folder: Path, class_names: Sequence[str] | None) -> ImageFiles:
    """List the images that a file names.

    A line is a path inside of ``folder`` and a class: its name or its number. Between the two are spaces or a tab; what
    comes after a second tab is left out, and so are empty lines and those that begin with ``#``. A line without a class
    is of the class that the first folder of its path names.

    Args:
        file: The text file.
        folder: Directory that paths are relative to.
        class_names: Name of each class number; those that the file names if not given.

    Raises:
        ValueError: If the file cannot be read, or names an image that is not there or a class that is none, with the
            line.
    """
    if not file.exists():
        raise ValueError(f"list_file: {file} does not exist")
    lines = list(_lines(file, folder))
    named = tuple(_sorted_names({label for _, _, label in lines})) if class_names is None else tuple(class_names)
    numbers = {name: number for number, name in enumerate(named)}
    files = ImageFiles(folder, named)
    for place, name, label in lines:
        number = numbers.get(label, int(label) if label.isascii() and label.isdigit() else -1)
        if not 0 <= number < len(named):
            raise ValueError(f"{place}: {label!r} is none of the {len(named)} classes, such as {named[0]}")
        path = folder / name
        if ".." in path.parts or not path.is_file():
            raise ValueError(f"{place}: {path} is no image file that is there")
        files.add(name, number, path.stat())
    if not len(files):
        raise ValueError(f"{file} names no image")
    return files


def _lines(file: Path, folder: Path) -> Iterator[tuple[str, str, str]]:
    """Place in the file, path and class of each image."""
    for count, line in enumerate(read_text(file).splitlines(), 1):
        text, place = line.strip(), f"{file}, line {count}"
        if not text or text.startswith("#"):
            continue
        words = text.split("\t")[:2] if "\t" in text else text.rsplit(None, 1)
        if len(words) == 2 and not (folder / text).is_file():
            name, label = words
        elif "/" in text:
            name, label = text, text.split("/")[0]
        else:
            raise ValueError(f"{place}: {text!r} has no class: write PATH CLASS, or a path whose first folder names it")
        yield place, name.strip(), label.strip()


def _sorted_names(names: set[str]) -> list[str]:
    """Class names in the order of their numbers, if they are numbers, else as text."""
    numbers = [int(name) for name in names if name.isascii() and name.isdigit() and len(name) <= _DIGITS]
    if len(numbers) < len(names):
        return sorted(names)
    return [str(number) for number in range(max(numbers, default=-1) + 1)]
