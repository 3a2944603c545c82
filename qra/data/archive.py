"""Data set archives: found or downloaded from the first mirror that works, verified and unpacked."""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import wrap_file
from torchvision.datasets.utils import check_integrity

TIMEOUT = 30
"""Seconds without data after which a mirror is given up."""


@dataclass(frozen=True)
class Archive:
    """Description of an archive.

    Attributes:
        title: Name of the data set.
        name: Name of the file.
        md5: Hash of the file.
        folder: Directory that it unpacks to.
        size: Size of the file in bytes, used only by the progress bar.
        mirrors: URLs of the file, tried in this order.
    """

    title: str
    name: str
    md5: str
    folder: str
    size: int
    mirrors: Sequence[str]

    def provide(self, root: Path, download: bool, mirrors: Sequence[str] | None = None) -> Path:
        """Unpack the archive into ``root`` unless that has been done, and download it first if it is absent.

        Args:
            root: Directory that holds, or will hold, the archive or its folder.
            download: Whether the archive may be downloaded.
            mirrors: URLs to try instead of the known ones.

        Returns:
            The folder.

        Raises:
            ValueError: If the archive is absent, damaged or cannot be downloaded.
        """
        folder = root / self.folder
        if not folder.is_dir():
            self._unpack(self._find(root, download, self.mirrors if mirrors is None else mirrors), root)
        return folder

    def _find(self, root: Path, download: bool, mirrors: Sequence[str]) -> Path:
        archive = root / self.name
        if archive.exists():
            if not check_integrity(archive, self.md5):
                raise ValueError(f"{archive} is damaged or a different file (its md5 is not {self.md5}): delete it")
        elif download:
            failures = self._fetch(mirrors, archive)
            if not archive.exists():
                raise ValueError(f"no mirror has the {self.title} archive ({'; '.join(failures)}): {self._put(root)}")
        else:
            raise ValueError(self.absent(root))
        return archive

    def absent(self, root: Path) -> str:
        """Return a message that a directory does not hold the archive, and what to do."""
        return f"{self.title} is not in {root}: download it with --data.download true, or {self._put(root)}"

    def _put(self, root: Path) -> str:
        return (
            f"put the archive at {root / self.name} (md5 {self.md5}), or use your own images (ImageFolderDataModule) "
            "or synthetic ones (SyntheticDataModule)"
        )

    def _unpack(self, archive: Path, root: Path) -> None:
        with tempfile.TemporaryDirectory(dir=root) as unpacked:
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked, filter="data")
            try:
                os.replace(Path(unpacked) / self.folder, root / self.folder)
            except OSError:
                if not (root / self.folder).is_dir():  # otherwise another process was faster
                    raise

    def _fetch(self, mirrors: Sequence[str], archive: Path) -> list[str]:
        """Download from the first mirror that serves the right bytes; return why the others failed."""
        failures = []
        archive.parent.mkdir(parents=True, exist_ok=True)
        partial = archive.with_name(f"{archive.name}.{os.getpid()}.part")
        for url in mirrors:
            try:
                self._download(url, partial)
                if check_integrity(partial, self.md5):
                    os.replace(partial, archive)
                    break
                failures.append(f"{url}: wrong md5")
            except (OSError, HTTPException, ValueError) as error:  # ValueError: not a URL
                failures.append(f"{url}: {error}")
            finally:
                partial.unlink(missing_ok=True)
        return failures

    def _download(self, url: str, path: Path) -> None:
        console = Console(stderr=True)
        with (
            urlopen(Request(url, headers={"User-Agent": "qra"}), timeout=TIMEOUT) as response,
            wrap_file(response, self.size, description=self.title, console=console, transient=True) as source,
            path.open("wb") as target,
        ):
            while block := source.read(1 << 20):
                target.write(block)
            target.flush()
            os.fsync(target.fileno())
