"""Lists of the images in a folder of class folders, in an order that depends only on their names."""

from __future__ import annotations

import hashlib
import logging
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
)
"""Extensions of the files that count as images; other files are skipped."""
NAMED = 3
"""Number of skipped files that are named."""


@dataclass
class PassedOver:
    """Number of unused entries of a folder, and the first of their names."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        self.names = sorted([*self.names, name])[:NAMED]


class ImageFiles:
    """Image files of a part, in order, with labels.

    Names and numbers are stored in a few blocks of memory that processes can share. A million Python strings would be
    copied into every worker as soon as it reads them.

    Args:
        folder: Directory that names are relative to.
        class_names: Name of each class number.

    Attributes:
        newest: Latest time at which any of the files was changed, renamed or put there, in nanoseconds.
    """

    def __init__(self, folder: Path, class_names: tuple[str, ...]) -> None:
        self.folder = folder
        self.class_names = class_names
        self.passed_over = PassedOver()
        self.newest = 0
        self._names = bytearray()
        self._ends, self._labels, self._sizes, self._times = (array("q") for _ in range(4))

    def add(self, name: str, label: int, status: os.stat_result) -> None:
        """Append a file.

        Args:
            name: Path inside the folder.
            label: Class number.
            status: The file's status from the file system.
        """
        self.newest = max(self.newest, status.st_ctime_ns)
        self._names += os.fsencode(name)
        columns = (self._ends, self._labels, self._sizes, self._times)
        values = (len(self._names), label, status.st_size, status.st_mtime_ns)
        for column, value in zip(columns, values, strict=True):
            column.append(value)

    def __len__(self) -> int:
        return len(self._ends)

    def name(self, index: int) -> str:
        """Return the path of a file inside the folder."""
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(bytes(self._names[start : self._ends[index]]))

    def path(self, index: int) -> str:
        """Return the path of a file."""
        return os.path.join(self.folder, self.name(index))

    def size(self, index: int) -> int:
        """Return the size of a file in bytes, as of when it was listed."""
        return self._sizes[index]

    def time(self, index: int) -> int:
        """Return the modification time of a file in nanoseconds, as of when it was listed."""
        return self._times[index]

    def label(self, index: int) -> int:
        """Return the class number of a file."""
        return self._labels[index]

    def labels(self) -> Tensor:
        """Return the class numbers of all files, int64, (N,)."""
        return torch.from_numpy(np.array(self._labels, np.int64))


def folder_names(folder: Path) -> tuple[str, ...]:
    """Return the names of the folders in a folder, sorted as text, without hidden ones; none if it does not exist."""
    inside = folder.iterdir() if folder.is_dir() else ()
    return tuple(sorted(path.name for path in inside if path.is_dir() and path.name[0] != "."))


def class_folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the class folders of a part, sorted as text.

    Raises:
        ValueError: If the folder does not exist or has fewer than two.
    """
    if not folder.is_dir():
        test = "test" if folder.name == "train" else folder.name
        raise ValueError(f"{folder} does not exist: the images must lie in train/<class>/* and {test}/<class>/*")
    names = folder_names(folder)
    if len(names) < 2:
        raise ValueError(f"{folder} needs at least 2 class folders, but has {list(names)}")
    return names


def list_images(folder: Path) -> ImageFiles:
    """List the images of all class folders, including nested folders.

    They are ordered by class, and within a class by path, as text. Symbolic links to directories are not followed.

    Raises:
        ValueError: If there are fewer than two classes, a class has no image, or a link is broken.
    """
    files = ImageFiles(folder, class_folders(folder))
    for entry in folder.iterdir():
        if entry.name not in files.class_names:
            files.passed_over.add(f"{folder.name}/{entry.name}")
    for label, name in enumerate(files.class_names):
        images = sorted(_scan(folder / name, "", f"{folder.name}/{name}/", files.passed_over))
        if not images:
            raise ValueError(
                f"{folder / name} contains no images: remove that folder or add images ({', '.join(SUFFIXES)})"
            )
        for inside, status in images:
            files.add(f"{name}/{inside}", label, status)
    return files


def _scan(directory: Path, inside: str, shown: str, passed_over: PassedOver) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name[0] == ".":
                passed_over.add(shown + entry.name)
            elif entry.is_dir(follow_symlinks=False):
                yield from _scan(Path(entry.path), f"{inside}{entry.name}/", f"{shown}{entry.name}/", passed_over)
            elif entry.name.lower().endswith(SUFFIXES):
                yield inside + entry.name, _status(entry)
            else:
                passed_over.add(shown + entry.name)


def _status(entry: os.DirEntry[str]) -> os.stat_result:
    try:
        return entry.stat()
    except FileNotFoundError:
        raise ValueError(f"{entry.path} is a link to a file that does not exist: repair or remove it") from None


def fingerprint(parts: Mapping[str, ImageFiles], image_size: int | None, channels: int) -> str:
    """Return the sha256 of everything that decoded images depend on: names, sizes and modification times, and settings.

    Args:
        parts: Image files by part.
        image_size: Height and width that images are scaled to; None if they are not scaled.
        channels: Channels that they are decoded to.
    """
    digest = hashlib.sha256(f"format 2, image_size {image_size}, channels {channels}".encode())
    for part, files in parts.items():
        for i in range(len(files)):
            digest.update(os.fsencode(f"\n{part}/{files.name(i)}\0{files.size(i)}\0{files.time(i)}"))
    return digest.hexdigest()


@rank_zero_only
def say_passed_over(root: Path, parts: Iterable[ImageFiles]) -> None:
    """Log one line about unused entries in the folders of a data set, if there are any."""
    found = [files.passed_over for files in parts]
    count, names = sum(each.count for each in found), [name for each in found for name in each.names]
    if count:
        more = f" and {count - NAMED} more" if count > NAMED else ""
        logging.getLogger("qra").warning(
            "%s: files skipped, as their names are not those of images (%d): %s%s",
            root,
            count,
            ", ".join(names[:NAMED]),
            more,
        )
