"""Images in one folder per class, decoded once into a cache."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track

from qra.checks import check_count
from qra.data.decoding import check_channels, open_image
from qra.data.image_cache import ImageCache, Pixels8
from qra.data.listing import ImageFiles, fingerprint, list_images, say_passed_over
from qra.data.tensors import ImageData, ImageSet, TensorDataModule

CHUNK = 256
"""Number of images that one thread decodes in a row."""


class ImageFolderDataModule(TensorDataModule):
    """Images in ``train/<class>/*`` and ``test/<class>/*``, also in nested folders.

    Without a folder ``train``, the data can only be used for testing.
    They are decoded once, into a cache in ``<root>/.qra-cache`` (or in the user's cache directory if that is not
    writable), which is rebuilt when a file is added, removed or changed. All images are held in memory; for larger data
    sets see :class:`StreamedDataModule`.

    Args:
        root: Directory that holds the folders ``test`` and, except for testing only, ``train``.
        image_size: Height and width, in pixels, to which every image is cropped around its centre and scaled. If not
            given, all images must have the same size.
        channels: Channels that images are decoded to: 3 for RGB, 1 for grey.
        settings: The other arguments of :class:`ImageDataModule`.

    Raises:
        ValueError: If ``image_size`` is not positive, or ``channels`` is neither 1 nor 3.
    """

    def __init__(
        self,
        root: str,
        image_size: int | None = None,
        channels: int = 3,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if image_size is not None:
            check_count("image_size", image_size)
        check_channels(channels)
        self.root = Path(root).expanduser()
        self.image_size = image_size
        self.channels = channels

    def load(self) -> ImageData:
        """Read the cache, or decode the images and write the cache.

        Raises:
            ValueError: If the folders are not as described, or an image cannot be used.
        """
        for_testing = (self.root / "test").exists() and not (self.root / "train").exists()
        names = ("test",) if for_testing else ("train", "test")
        parts = {name: list_images(self.root / name) for name in names}
        say_passed_over(self.root, parts.values())
        first, test = parts[names[0]], parts["test"]
        check_same_classes(self.root, first.class_names, test.class_names)
        images = self._decoded(parts)
        sets = {name: ImageSet(torch.from_numpy(images[name]), part.labels()) for name, part in parts.items()}
        return ImageData(sets.get("train"), sets["test"], test.class_names)

    def _decoded(self, parts: Mapping[str, ImageFiles]) -> Mapping[str, Pixels8]:
        # Files that were swapped have the same sizes and, if unpacked together, the same modification times.
        newest = max(files.newest for files in parts.values())
        key = f"{fingerprint(parts, self.image_size, self.channels)} {newest}"
        kind = "" if self.channels == 3 else "-grey"
        cache = ImageCache(self.root, f"images-{self.image_size or 'as-stored'}{kind}.npz")
        images = cache.read(key)
        if images is None or not all(self._is_cache_of(files, images.get(name)) for name, files in parts.items()):
            images = {name: self._decode_all(files, next(iter(parts.values()))) for name, files in parts.items()}
            cache.write(key, images)
        return images

    def _is_cache_of(self, files: ImageFiles, images: Pixels8 | None) -> bool:
        """Whether an array can be the decoded images of the given files, (N, C, H, W)."""
        expected = (len(files), self.channels)
        return images is not None and images.dtype == np.uint8 and images.ndim == 4 and images.shape[:2] == expected

    def _decode_all(self, files: ImageFiles, first: ImageFiles) -> Pixels8:
        """Decode images in threads.

        Args:
            files: The N image files.
            first: Files whose first one sets the size of all images if ``image_size`` is not given.

        Returns:
            uint8, (N, C, H, W).
        """
        side = self.image_size
        size = (side, side) if side else open_image(first.path(0)).size
        images = np.empty((len(files), self.channels, size[1], size[0]), np.uint8)
        starts = range(0, len(files), CHUNK)

        def decode_chunk(start: int) -> None:
            for i in range(start, min(start + CHUNK, len(files))):
                pixels = np.asarray(self._decode(files.path(i), size))
                images[i] = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

        with ThreadPoolExecutor() as pool:
            done, few = pool.map(decode_chunk, starts), len(starts) < 8
            console = Console(stderr=True)
            for _ in track(done, "Decoding images", len(starts), console=console, transient=True, disable=few):
                pass
        return images

    def _decode(self, file: str, size: tuple[int, int]) -> Image.Image:
        image = open_image(file, self.channels)
        if self.image_size is not None:
            image = ImageOps.fit(image, size, Image.Resampling.BICUBIC)
        elif image.size != size:
            here, others = (f"{width} x {height}" for width, height in (image.size, size))
            raise ValueError(
                f"{file} has {here} pixels, others have {others}: set image_size to crop and scale them all"
            )
        return image


def check_same_classes(root: Path, train: tuple[str, ...], test: tuple[str, ...]) -> None:
    """Reject training and test images of different classes.

    Raises:
        ValueError: If the classes differ. The message lists those that only one part has.
    """
    if train != test:
        odd = sorted(set(train) ^ set(test))
        raise ValueError(f"{root}: train and test must have the same class folders, but only one has {odd}")
