"""Images in folders, one folder a class, decoded once into a cache."""

from __future__ import annotations

import hashlib
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track
from torch import Tensor

from qra.checks import check_count
from qra.data.image_cache import ImageCache, Pixels8
from qra.data.tensors import ImageData, ImageSet, TensorDataModule
from qra.files import IMAGE_LIMIT, open_regular

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""Endings of the files that count as images; others are passed over."""
LARGEST = 10**8
"""Pixels of an image that is decoded."""
CHUNK = 256
"""Images that one thread decodes in a row."""


class ImageFolderDataModule(TensorDataModule):
    """Images sorted into ``train/<class>/*`` and ``test/<class>/*``.

    Without a folder ``train`` they can only be tested.
    They are decoded once, to RGB, into a cache in ``<root>/.qra-cache`` (or the user's cache directory where that
    cannot be written), which is made again when a file is added, removed or changed. All images are held in memory.

    Args:
        root: Directory that holds the folders ``test`` and, for all but tests, ``train``.
        image_size: Height and width to which every image is cropped around its centre and scaled, in pixels; without
            it all images must have one size.
        settings: The other arguments of :class:`ImageDataModule`.

    Raises:
        ValueError: If ``image_size`` is not positive.
    """

    def __init__(
        self,
        root: str,
        image_size: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if image_size is not None:
            check_count("image_size", image_size)
        self.root = Path(root).expanduser()
        self.image_size = image_size

    def load(self) -> ImageData:
        """Read the cache, or decode the images and write it.

        Raises:
            ValueError: If the folders are not as described, or an image cannot be used.
        """
        for_testing = (self.root / "test").exists() and not (self.root / "train").exists()
        names = ("test",) if for_testing else ("train", "test")
        parts = {name: _list_part(self.root / name) for name in names}
        first, test = parts[names[0]], parts["test"]
        if first.class_names != test.class_names:
            odd = sorted(set(first.class_names) ^ set(test.class_names))
            raise ValueError(f"{self.root}: train and test must have the same class folders, but only one has {odd}")
        files = [file for part in parts.values() for file in part.files]
        key = _fingerprint(self.root, files, self.image_size)
        cache = ImageCache(self.root, f"images-{self.image_size or 'as-stored'}.npz")
        images = cache.read(key)
        if images is None or not all(_is_cache_of(part.files, images.get(name)) for name, part in parts.items()):
            crop = self.image_size is not None
            size = (self.image_size, self.image_size) if self.image_size else _open(files[0].path).size
            images = {name: _decode_all([file.path for file in part.files], size, crop) for name, part in parts.items()}
            cache.write(key, images)
        sets = {name: ImageSet(torch.from_numpy(images[name]), part.labels()) for name, part in parts.items()}
        return ImageData(sets.get("train"), sets["test"], test.class_names)


def _is_cache_of(files: list[os.DirEntry[str]], images: Pixels8 | None) -> bool:
    """Whether an array can be the decoded images of files, (N, 3, H, W)."""
    return images is not None and images.dtype == np.uint8 and images.ndim == 4 and images.shape[:2] == (len(files), 3)


class _Part(NamedTuple):
    """What ``train`` or ``test`` holds."""

    class_names: tuple[str, ...]
    files: list[os.DirEntry[str]]
    counts: list[int]

    def labels(self) -> Tensor:
        return torch.arange(len(self.counts)).repeat_interleave(torch.tensor(self.counts))


def _list_part(folder: Path) -> _Part:
    """List the images of each class folder, in the order of the names."""
    if not folder.is_dir():
        raise ValueError(f"{folder} does not exist: the images must lie in train/<class>/* and test/<class>/*")
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(classes) < 2:
        raise ValueError(f"{folder} needs at least 2 class folders, but has {[path.name for path in classes]}")
    files: list[os.DirEntry[str]] = []
    counts = []
    for path in classes:
        with os.scandir(path) as entries:
            images = [file for file in entries if file.name.lower().endswith(SUFFIXES) and file.name[0] != "."]
        if not images:
            raise ValueError(f"{path} holds no image: remove that folder or fill it ({', '.join(SUFFIXES)})")
        files += sorted(images, key=lambda file: file.name)
        counts.append(len(images))
    return _Part(tuple(path.name for path in classes), files, counts)


def _fingerprint(root: Path, files: list[os.DirEntry[str]], image_size: int | None) -> str:
    """sha256 over what the decoded images depend on: names, sizes and times of change of all files, and the crop."""
    digest = hashlib.sha256(f"format 1, image_size {image_size}".encode())
    for file in files:
        status = file.stat()
        line = f"\n{file.path.removeprefix(str(root))}\0{status.st_size}\0{status.st_mtime_ns}"
        digest.update(os.fsencode(line))
    return digest.hexdigest()


def _decode_all(files: list[str], size: tuple[int, int], crop: bool) -> Pixels8:
    """Decode images in threads.

    Args:
        files: Image files, N of them.
        size: Width and height of the result, in pixels.
        crop: Crop and scale images to that size; otherwise they must have it.

    Returns:
        uint8 RGB, (N, 3, H, W).
    """
    images = np.empty((len(files), 3, size[1], size[0]), np.uint8)
    starts = range(0, len(files), CHUNK)

    def decode_chunk(start: int) -> None:
        for i, file in enumerate(files[start : start + CHUNK], start):
            images[i] = _decode(file, size, crop).transpose(2, 0, 1)

    with ThreadPoolExecutor() as pool:
        done = pool.map(decode_chunk, starts)
        few = len(starts) < 8
        for _ in track(done, "Decoding images", len(starts), console=Console(stderr=True), transient=True, disable=few):
            pass
    return images


def _decode(file: str, size: tuple[int, int], crop: bool) -> Pixels8:
    """Decode one image to RGB, (H, W, 3)."""
    image = _open(file)
    if crop:
        image = ImageOps.fit(image, size, Image.Resampling.BICUBIC)
    elif image.size != size:
        here, others = (f"{width} x {height}" for width, height in (image.size, size))
        raise ValueError(f"{file} has {here} pixels, others have {others}: set image_size to crop and scale them all")
    return np.asarray(image)


def _open(file: str) -> Image.Image:
    try:
        with open_regular(file, IMAGE_LIMIT) as opened, warnings.catch_warnings(), Image.open(opened) as image:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is lower
            if image.width * image.height > LARGEST:
                raise ValueError(f"it has {image.width} x {image.height} pixels, more than {LARGEST:,} in all")
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all that Pillow raises
        raise ValueError(f"{file} cannot be decoded as an image ({error}): repair or remove it") from None
