"""Trial decoding of any number of image files, in constant memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from qra.data.decoding import UnreadableImageError, open_image
from qra.data.listing import ImageFiles
from qra.data.workers import cores

AT_ONCE = 1000
"""Number of files that are decoded before the next ones start."""


class Inspection(NamedTuple):
    """Result of an inspection of images.

    Attributes:
        sha256: Hash over the images, hexadecimal.
        faults: One line about each image that cannot be decoded.
    """

    sha256: str
    faults: list[str]


def inspect(files: ImageFiles, indices: Sequence[int]) -> Inspection:
    """Decode image files and report faults.

    Args:
        files: The files of a part.
        indices: Indices of the files to decode.

    Returns:
        The sha256 over names, labels and pixels, and the faults of files.
    """
    digest = hashlib.sha256()
    faults: list[str] = []

    def read(index: int) -> tuple[bytes, list[str]]:
        try:
            image = open_image(files.path(index), size=files.size(index))
        except UnreadableImageError as reason:
            return b"", [str(reason)]
        about = f"{files.name(index)}\0{files.label(index)}\0{image.size}\0".encode(errors="surrogateescape")
        return hashlib.sha256(about + image.tobytes()).digest(), []

    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(indices), AT_ONCE):
            for pixels, fault in pool.map(read, indices[start : start + AT_ONCE]):
                digest.update(pixels)
                faults += fault
    return Inspection(digest.hexdigest(), faults)
