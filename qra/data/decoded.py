"""Sources of decoded images: image files, decoded on each access, or a cache file that processes share."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from qra.data.decoding import LARGEST, open_image
from qra.data.listing import ImageFiles, fingerprint
from qra.files import open_regular
from qra.writing import replacing

AT_ONCE = 256
"""Number of images that are decoded before they are written."""
LARGEST_CACHE = 2**50
"""Largest size of a cache file, in bytes."""
_MAGIC = b"qra decoded images 1 "
_PLACE = np.dtype((np.int64, 3))
"""Offset of an image in the file, its height and its width."""


@dataclass(frozen=True)
class FromFiles:
    """Decodes an image file on each access.

    Attributes:
        files: Image files of a part.
        channels: Channels to decode them to.
    """

    files: ImageFiles
    channels: int

    def __call__(self, index: int) -> Image.Image:
        """Return the decoded image at an index."""
        return open_image(self.files.path(index), self.channels, self.files.size(index))


class FromCache:
    """Decoded images in one memory-mapped file, which processes share and the system may drop from memory.

    Args:
        path: The cache file, see :func:`write_cache`.
        images: The images that it caches.

    Raises:
        ValueError: If it is a cache of something else, or is incomplete.
    """

    def __init__(self, path: Path, images: FromFiles) -> None:
        self.path, self.images = path, images
        header, table = _header(images), len(images.files) * _PLACE.itemsize
        with open_regular(path, LARGEST_CACHE) as file:
            size = os.fstat(file.fileno()).st_size
            whole = size > len(header) + table and file.read(len(header)) == header
            self._bytes = np.asarray(np.memmap(file, np.uint8, "r")) if whole else np.empty(0, np.uint8)
        self._places = self._bytes[size - table :].view(np.int64).reshape(-1, 3)
        if not (whole and _follow(self._places, len(header), size - table, images.channels)):
            raise ValueError(
                f"{path} is a cache of other images, of images decoded in another way, or incomplete: delete it, or "
                "give another directory or null by --data.cache"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return FromCache, (self.path, self.images)  # a process that receives this maps the file itself

    def __call__(self, index: int) -> Image.Image:
        """Return the decoded image at an index."""
        start, height, width = self._places[index].tolist()
        shape = (height, width, 3) if self.images.channels == 3 else (height, width)
        return Image.fromarray(self._bytes[start : start + math.prod(shape)].reshape(shape))


def _follow(places: NDArray[np.int64], start: int, end: int, channels: int) -> bool:
    """Whether the recorded places of images are consecutive from ``start`` to ``end``."""
    if places.min() < 1 or places[:, 1:].max() > LARGEST:
        return False
    starts, height, width = places.T
    ends = starts + height * width * channels
    return bool(starts[0] == start and ends[-1] == end and (starts[1:] == ends[:-1]).all())


def write_cache(path: Path, images: FromFiles) -> None:
    """Decode image files into one cache file, which is written completely or not at all.

    It starts with a header that identifies the decoded files. Then come the pixels of the images and, at the end, the
    offset, height and width of each image.

    Args:
        path: The file to write; its directory is created.
        images: The images to cache.

    Raises:
        ValueError: If an image cannot be decoded.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    count = len(images.files)
    places: list[tuple[int, int, int]] = []
    starts, console = range(0, count, AT_ONCE), Console(stderr=True)
    with replacing(path) as file, ThreadPoolExecutor() as pool:
        file.write(_header(images))
        for start in track(starts, "Decoding images", console=console, transient=True, disable=len(starts) < 8):
            for image in pool.map(images, range(start, min(start + AT_ONCE, count))):
                places.append((file.tell(), image.height, image.width))
                file.write(image.tobytes())
        file.write(np.array(places, np.int64).tobytes())


def _header(images: FromFiles) -> bytes:
    return _MAGIC + fingerprint({"": images.files}, None, images.channels).encode()
