"""Text files that list the images of a data set, one per line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from qra.data.listing import ImageFiles
from qra.files import read_text

_DIGITS = 6
"""Maximum number of digits of a class number."""


def read_list(file: Path, folder: Path, class_names: Sequence[str] | None) -> ImageFiles:
    """List the images that a text file names.

    A line is a path inside ``folder`` and a class: its name or, if no class name is a number, its number. The two are
    separated by spaces or a tab; anything after a second tab is ignored, as are empty lines and lines that begin with
    ``#``. If a line has no class, the first folder of its path is the class.

    Args:
        file: The text file.
        folder: Directory that paths are relative to.
        class_names: Name of each class number; by default the classes that occur in the file.

    Raises:
        ValueError: If the file cannot be read or names no image, or if a line names a missing image, an image twice or
            an unknown class. The message gives the line.
    """
    if not file.exists():
        raise ValueError(f"list_file: {file} does not exist")
    lines = list(_lines(file, folder))
    named = tuple(_sorted_names({label for _, _, label in lines})) if class_names is None else tuple(class_names)
    numbers = {name: number for number, name in enumerate(named)}
    if not any(map(_is_number, named)):  # otherwise 1 could mean the class of that name or the second class
        numbers |= {str(number): number for number in range(len(named))}
    files, seen = ImageFiles(folder, named), set[str]()
    for place, name, label in lines:
        label = str(int(label)) if label not in numbers and _is_number(label) else label
        if label not in numbers:
            raise ValueError(f"{place}: {label!r} is not one of the {len(named)} classes, such as {named[0]}")
        files.add(name, numbers[label], _image(place, folder, name, seen).stat())
    if not len(files):
        raise ValueError(f"{file} lists no images")
    return files


def _image(place: str, folder: Path, name: str, seen: set[str]) -> Path:
    """Return the image file of a line, which must not be in ``seen``."""
    path = Path(os.path.abspath(folder / name))
    if not path.is_relative_to(os.path.abspath(folder)):
        raise ValueError(f"{place}: {name} points outside {folder}: give paths inside it")
    if not _is_file(path):
        raise ValueError(f"{place}: {folder / name} is not an existing image file")
    if str(path) in seen:
        raise ValueError(f"{place}: {name} is listed twice: list each image once")
    seen.add(str(path))
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # not a valid file name
        return False


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) <= _DIGITS


def _lines(file: Path, folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the place in the list file, the path and the class of each image."""
    for count, line in enumerate(read_text(file).splitlines(), 1):
        text, place = line.strip(), f"{file}, line {count}"
        if not text or text.startswith("#"):
            continue
        words = text.split("\t")[:2] if "\t" in text else text.rsplit(None, 1)
        if len(words) == 2 and not _is_file(folder / text):
            name, label = words
        elif "/" in text:
            name, label = text, text.split("/")[0]
        else:
            raise ValueError(f"{place}: {text!r} has no class: write PATH CLASS, or a path whose first folder names it")
        yield place, name.strip(), label.strip()


def _sorted_names(names: set[str]) -> list[str]:
    """Return class names in the order of their numbers if all are numbers, else sorted as text."""
    numbers = [int(name) for name in names if _is_number(name)]
    if len(numbers) < len(names):
        return sorted(names)
    return [str(number) for number in range(max(numbers, default=-1) + 1)]
