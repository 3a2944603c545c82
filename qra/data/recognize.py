"""Recognize the data sets in a directory by its files."""

from __future__ import annotations

from pathlib import Path

from qra.data.arrays import LABELS, ArrayDataModule
from qra.data.cifar10 import ArchivedDataModule, CIFAR10DataModule, CIFAR100DataModule
from qra.data.decoding import open_image
from qra.data.image_folder import ImageFolderDataModule
from qra.data.listing import list_images
from qra.data.module import ImageDataModule
from qra.data.streamed import SAMPLED, StreamedDataModule

ARRAYS = (".npy", ".npz")


def data_sets(path: Path) -> dict[Path, ImageDataModule]:
    """Return the data sets in a directory, or the one in a file, by path; empty if none is recognized.

    Images in folders ``train`` and ``val`` are decoded when needed, and so are those in ``train`` and ``test`` if they
    have different sizes.
    """
    if path.suffix in ARRAYS:
        return {path: ArrayDataModule(path, labels_of(path))}
    if (path / "val").is_dir():
        return {path: StreamedDataModule(str(path))}
    if any((path / part).is_dir() for part in ("train", "test")):
        return {path: _folders(path)}
    kinds: tuple[type[ArchivedDataModule], ...] = (CIFAR10DataModule, CIFAR100DataModule)
    archived = [
        kind for kind in kinds if any((path / name).exists() for name in (kind.archive.name, kind.archive.folder))
    ]
    if archived:
        return {path / kind.archive.folder: kind(str(path)) for kind in archived}
    arrays = sorted(file for file in path.glob("*.np[yz]") if file.name[0] != "." and "labels" not in file.name)
    return {file: ArrayDataModule(file, labels_of(file)) for file in arrays}


def _folders(path: Path) -> ImageDataModule:
    """Return the data module for folders ``train`` and ``test``."""
    try:
        files = list_images(path / ("test" if (path / "test").is_dir() else "train"))
        some = range(0, len(files), 1 + len(files) // SAMPLED)
        sizes = {open_image(files.path(i)).size for i in some}
    except ValueError:  # reading all of it will raise the error
        sizes = set()
    return StreamedDataModule(str(path), test="test") if len(sizes) > 1 else ImageFolderDataModule(str(path))


def labels_of(images: Path) -> Path | None:
    """Return the labels file of images in an ``.npy`` file: named alike but for one word, or ``labels.npy``, if any."""
    if images.suffix == ".npz":
        return None
    named = (
        images.with_name(images.name.replace(word, "labels")) for word in ("data", "images") if word in images.name
    )
    return next((file for file in (*named, images.with_name(LABELS)) if file.exists()), None)
