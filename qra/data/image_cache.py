"""A cache file of decoded images that records what they were decoded from."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qra.files import read_npz
from qra.writing import write_arrays

Pixels8 = NDArray[np.uint8]
LIMIT = 2**36
"""Largest total size of images that are read, in bytes: all of them are held in memory."""


class ImageCache:
    """Named image arrays in one ``.npz`` file, valid for one key.

    Args:
        root: Directory of the images. The file is in its folder ``.qra-cache`` or, if that cannot be created or
            written, in the user's cache directory.
        name: Name of the file.
    """

    def __init__(self, root: Path, name: str) -> None:
        user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        distinct = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
        self.paths = [root / ".qra-cache" / name]
        if os.path.isabs(user):  # in containers, users may have no home directory
            self.paths.append(Path(user, "qra", distinct, name))

    def read(self, key: str) -> dict[str, Pixels8] | None:
        """Return the arrays stored under a key; None if there is no such file, or it is damaged or has another key."""
        for path in self.paths:
            try:
                arrays = read_npz(path, LIMIT)
            except (OSError, ValueError):
                continue
            if str(arrays.pop("key", None)) == key:
                return arrays
        return None

    def write(self, key: str, images: Mapping[str, Pixels8]) -> None:
        """Store arrays under a key, replacing the file atomically; log a warning if they cannot be stored.

        Readers see either the old or the new file.
        """
        try:
            write_arrays(self._writable_path(), {"key": np.array(key), **images})
        except OSError as reason:  # read-only or full disk; the images are in memory anyway
            logging.getLogger("qra").warning("decoded images could not be cached for the next run: %s", reason)

    def _writable_path(self) -> Path:
        beside_images, of_user = self.paths[0], self.paths[-1]
        try:
            beside_images.parent.mkdir(exist_ok=True)
            if os.access(beside_images.parent, os.W_OK):
                return beside_images
        except OSError:  # such as a read-only file system
            pass
        of_user.parent.mkdir(parents=True, exist_ok=True)
        return of_user
