"""Test images in NumPy files: images with labels, and corrupted images by kind and severity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qra.checks import check_count
from qra.data.tensors import ImageData, ImageSet, TensorDataModule
from qra.files import read_npy, read_npz

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""The classes of CIFAR-10, in the order of their numbers."""
LABELS = "labels.npy"
"""File with the labels of corrupted images."""
MOST_CLASSES = 10**6


class ArrayDataModule(TensorDataModule):
    """Images and labels in NumPy files, such as CIFAR-10.1, for testing only.

    Args:
        images: ``.npy`` file of uint8 images, (N, H, W, C) with 3 channels or 1, or (N, H, W) for one channel; or an
            ``.npz`` file with such an array ``images`` and an array ``labels``.
        labels: ``.npy`` file of the class numbers, integers from 0, (N,). Not given if ``images`` is an ``.npz`` file.
        class_names: Name of each class number; by default the numbers themselves.
        settings: The other arguments of :class:`ImageDataModule`.
    """

    def __init__(
        self,
        images: Path,
        labels: Path | None = None,
        class_names: Sequence[str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.images = Path(images).expanduser()
        self.labels_file = None if labels is None else Path(labels).expanduser()
        self.names = class_names

    def load(self) -> ImageData:
        """Read the arrays.

        Raises:
            ValueError: If a file is absent, cannot be read or has the wrong content.
        """
        return _image_data(self.images, self.labels_file, *self._arrays(), self.names)

    def _arrays(self) -> tuple[NDArray[Any], NDArray[Any]]:
        if self.images.suffix == ".npz":
            if self.labels_file is not None:
                raise ValueError(f"{self.images} already contains labels: leave out labels {self.labels_file}")
            arrays = _there(self.images, read_npz)
            if missing := {"images", "labels"} - arrays.keys():
                raise ValueError(f"{self.images} has no array {min(missing)}, but {', '.join(arrays) or 'none at all'}")
            return arrays["images"], arrays["labels"]
        if self.labels_file is None:
            raise ValueError(f"{self.images} holds only images: give the .npy file of their labels by --data.labels")
        return _there(self.images, read_npy), _there(self.labels_file, read_npy)


class CorruptedDataModule(TensorDataModule):
    """Test images with one corruption at one severity, stored like CIFAR-10-C (Hendrycks and Dietterich 2019).

    A file ``<corruption>.npy`` holds the same images at each severity in turn, and ``labels.npy`` one label per row, or
    per image of one severity. Only the images of the chosen severity are read.

    Args:
        root: Directory of the files.
        corruption: File name without its extension, such as ``gaussian_noise``.
        severity: Severity, from 1, the mildest, to ``severities``.
        severities: Number of severities in a file.
        class_names: Name of each class number.
        settings: The other arguments of :class:`ImageDataModule`.

    Raises:
        ValueError: If ``severity`` is not in 1..``severities``.
    """

    def __init__(
        self,
        root: str,
        corruption: str,
        severity: int,
        severities: int = 5,
        class_names: Sequence[str] | None = CIFAR10_CLASSES,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_count("severities", severities)
        if not 1 <= severity <= severities:
            raise ValueError(f"severity is {severity}: it must be in 1..{severities}")
        self.root = Path(root).expanduser()
        self.corruption = corruption
        self.severity = severity
        self.severities = severities
        self.names = class_names

    def load(self) -> ImageData:
        """Read the images of the chosen severity.

        Raises:
            ValueError: If a file is absent, cannot be read or has the wrong content.
        """
        if self.corruption not in (there := corruptions(self.root)):
            raise ValueError(f"corruption is {self.corruption!r}: {self.root} has {', '.join(there)}")
        file, labels_file = self.root / f"{self.corruption}.npy", self.root / LABELS
        images = _there(file, read_npy, part=self.severity - 1, parts=self.severities)
        labels = _there(labels_file, read_npy)
        if len(labels) == self.severities * len(images):
            labels = labels[(self.severity - 1) * len(images) :][: len(images)]
        return _image_data(file, labels_file, images, labels, self.names)


def corruptions(root: str | Path) -> tuple[str, ...]:
    """Return the names of the corruptions for which a directory has files, sorted.

    Raises:
        ValueError: If there are none.
    """
    root = Path(root).expanduser()
    names = sorted(path.stem for path in root.glob("*.npy") if path.name != LABELS and path.name[0] != ".")
    if not names:
        raise ValueError(f"{root} has no corrupted images: CORRUPTION.npy and {LABELS} must lie there")
    return tuple(names)


def _there(file: Path, read: Any, **how: int) -> Any:
    if not file.exists():
        raise ValueError(f"{file} does not exist")
    return read(file, **how)


def _image_data(
    file: Path, labels_file: Path | None, images: NDArray[Any], labels: NDArray[Any], names: Sequence[str] | None
) -> ImageData:
    """Build a data set for testing; errors name the file that is wrong."""
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape[1:]:
        raise ValueError(
            f"{file}: its images are {images.dtype} of shape {images.shape}: they must be uint8 (N, H, W, 3), or "
            "(N, H, W) if they are grey"
        )
    if images.max(initial=0) == 1:
        raise ValueError(f"{file}: its pixel values are only 0 and 1, of 255: multiply them by 255")
    labels_file = labels_file or file
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        kind = f"{labels.dtype} of shape {labels.shape}"
        raise ValueError(f"{labels_file}: its labels are {kind}: they must be integers (N,)")
    if len(labels) != len(images):
        raise ValueError(f"{labels_file} has {len(labels)} labels, but {file} has {len(images)} images")
    if labels.max(initial=0) >= MOST_CLASSES:
        raise ValueError(
            f"{labels_file}: its largest label is {labels.max()}: class numbers must be below {MOST_CLASSES}"
        )
    y = torch.from_numpy(labels.astype(np.int64))
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    if names is None:
        names = [str(number) for number in range(int(labels.max(initial=0)) + 1)]
    try:
        return ImageData(None, ImageSet(x, y), tuple(names))
    except ValueError as reason:
        raise ValueError(f"{labels_file}: {reason}") from None
