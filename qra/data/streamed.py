"""Images in folders, decoded when needed: any number of them, in constant memory."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, get_args

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader

from qra.checks import check_choice, check_count
from qra.data.crops import Crops, Interpolation, Library
from qra.data.decoded import FromCache, FromFiles, write_cache
from qra.data.decoding import check_channels
from qra.data.image_folder import check_same_classes
from qra.data.inspection import Inspection, inspect
from qra.data.list_file import read_list
from qra.data.listing import ImageFiles, class_folders, folder_names, list_images, say_passed_over
from qra.data.module import ImageDataModule, Part
from qra.data.workers import DecodedBatches, PassBatches, cores, loader
from qra.types import Batch

SAMPLED = 64
"""Number of images whose decoded bytes are part of the hash of a data set."""


class StreamedDataModule(ImageDataModule):
    """Images in folders of classes, such as ImageNet, decoded by worker processes when needed.

    For testing and validation, the shorter side is scaled to ``resize`` and the centre cropped, as in torchvision. For
    training, a random crop is scaled and possibly mirrored, drawn by index, seed and pass. The content of a batch
    depends neither on the number of workers nor on the number of ranks. Only the name and four numbers of each image
    are held in memory. Tests read no training images, and need none.

    Args:
        root: Directory that holds the folders.
        train: Folder of the training images, ``<class>/*``, also in nested folders.
        test: Folder of the test images, ``<class>/*``, or of the files that ``list_file`` names.
        size: Height and width of an image, in pixels.
        resize: Length to which the shorter side is scaled before the centre crop, in pixels; by default 8/7 of
            ``size``, which is 256 for 224.
        interpolation: Interpolation method for scaling.
        workers: Number of processes that decode images; -1 for as many as there are cores, shared by the processes of a
            run.
        list_file: Text file, in ``root`` or elsewhere, that lists the test images, one ``PATH CLASS`` per line, with
            paths inside ``test``. The class may be omitted if it is the first folder of the path.
        decode: What is scaled: the decoded bytes (``torchvision``) or a Pillow image (``pillow``), with which most
            published weights were trained.
        channels: Channels that images are decoded to: 3 for RGB, 1 for grey.
        cache: Directory for one file per part that holds its decoded images, 3 bytes per pixel (1 for grey), and is
            created if absent. By default there is no cache. It saves decoding and does not change any batch.
        settings: The other arguments of :class:`ImageDataModule`.

    Raises:
        ValueError: If a value is out of range.
    """

    measured_images: ClassVar[int] = 5_000

    def __init__(
        self,
        root: str,
        train: str = "train",
        test: str = "val",
        size: int = 224,
        resize: int | None = None,
        interpolation: Interpolation = "bilinear",
        workers: int = -1,
        list_file: str | None = None,
        decode: Library = "torchvision",
        channels: int = 3,
        cache: Path | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_count("size", size)
        resize = round(size * 8 / 7) if resize is None else resize
        check_count("resize", resize, size)
        check_count("workers", workers, -1)
        check_choice("interpolation", interpolation, get_args(Interpolation))
        check_choice("decode", decode, get_args(Library))
        check_channels(channels)
        self.root = Path(root).expanduser()
        self.folders: dict[Part, Path] = {"train": self.root / train, "test": self.root / test}
        self.crops = Crops(size, resize, interpolation, decode, channels)
        self.workers = workers
        self.list_file = list_file
        self.cache = None if cache is None else cache.expanduser()
        self._listed: dict[Part, ImageFiles] = {}
        self._caches: dict[Part, FromCache] = {}

    # ----- description of the data set -----

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class number."""
        return self._folder_classes() or self._files("test").class_names

    def _folder_classes(self) -> tuple[str, ...] | None:
        """Return the names of the test folders or, if a list names the images, of the training folders if any."""
        if self.list_file is None:
            return class_folders(self.folders["test"])
        found = (folder_names(self.folders["train"]), folder_names(self.folders["test"]))
        return next((names for names in found if len(names) > 1), None)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.crops.channels, self.crops.size, self.crops.size

    @cached_property
    def data_hash(self) -> str:
        """sha256 over paths, sizes and labels of the test images, and over the decoded bytes of some of them."""
        return self._hash("test")

    @cached_property
    def training_hash(self) -> str:
        """sha256 like :attr:`data_hash`, of the training and the test images."""
        return hashlib.sha256(f"{self._hash('train')} {self.data_hash}".encode()).hexdigest()

    def labels(self, part: Part) -> Tensor:
        """Return the class numbers of all images of a part, int64 on the CPU, (N,); empty if there is no such part."""
        if part == "train" and not self.folders["train"].exists():
            return torch.empty(0, dtype=torch.int64)
        return self._files(part).labels()

    def fetch(self, part: Part, indices: Tensor) -> Batch:
        """Return centre crops of images, decoded by threads of this process, with their labels and indices."""
        decoded = DecodedBatches(self._files(part), self._decoded(part), self.crops)
        with ThreadPoolExecutor(cores()) as pool:
            images = list(pool.map(decoded.image, indices.tolist()))
        x = torch.stack(images) if images else torch.empty(0, *self.image_shape, dtype=torch.uint8)
        return Batch(x, self.labels(part)[indices], indices)

    # ----- files -----

    def setup(self, stage: str | None = None) -> None:
        """Check that the folders are as described and that the settings fit them, as far as a stage depends on them.

        Raises:
            ValueError: If they do not.
        """
        if self.folders["train"].exists():
            check_same_classes(self.root, class_folders(self.folders["train"]), self.class_names)
        self._files("test")
        if self.cache is not None:
            self._fill(self.cache, ("train", "test") if stage in ("fit", "validate") else ("test",))
        self._say_workers()
        super().setup(stage)

    def _files(self, part: Part) -> ImageFiles:
        """Return the files of a part, which are listed only once."""
        if part not in self._listed:
            folder = self.folders[part]
            if part == "test" and self.list_file is not None:
                files = read_list(self._list_path(self.list_file), folder, self._folder_classes())
            else:
                files = list_images(folder)
                say_passed_over(self.root, [files])
            self._listed[part] = files
        return self._listed[part]

    def _decoded(self, part: Part) -> FromFiles | FromCache:
        """Return the source of the decoded images of a part."""
        files = FromFiles(self._files(part), self.crops.channels)
        if self.cache is None or not (path := self.cache / f"{part}.images").exists():
            return files
        if part not in self._caches:
            self._caches[part] = FromCache(path, files)
        return self._caches[part]

    def _fill(self, cache: Path, parts: Sequence[Part]) -> None:
        """Create the missing caches of parts, and check that the existing ones are of these images."""
        if cache.exists() and not cache.is_dir():
            raise ValueError(f"{cache} is not a directory: give one by --data.cache, or null")
        for part in (part for part in parts if self.size(part)):
            if not (path := cache / f"{part}.images").exists():
                write_cache(path, FromFiles(self._files(part), self.crops.channels))
            self._decoded(part)

    def _list_path(self, name: str) -> Path:
        inside = self.root / Path(name).expanduser()
        return inside if inside.exists() else Path(name).expanduser()

    def _hash(self, part: Part) -> str:
        files = self._files(part)
        digest = hashlib.sha256(f"{self.crops} {self.class_names}".encode())
        for i in range(len(files)):
            digest.update(f"\n{files.name(i)}\0{files.size(i)}\0{files.label(i)}".encode(errors="surrogateescape"))
        images = self.fetch(part, self.choose(part, SAMPLED)).x
        digest.update(images.numpy().data)
        return digest.hexdigest()

    def inspect(self, full: bool) -> Inspection:
        """Decode images of both parts: all of them, or as many as the hash uses.

        Args:
            full: Whether to decode all images.

        Returns:
            The sha256 over names, labels and pixels, and the faults of files; :attr:`data_hash` if only some are
            decoded without faults.
        """
        parts = [part for part in get_args(Part) if self.size(part)]
        found = [inspect(self._files(part), self.choose(part, None if full else SAMPLED).tolist()) for part in parts]
        faults = [fault for each in found for fault in each.faults]
        if full or faults:
            return Inspection(hashlib.sha256(" ".join(each.sha256 for each in found).encode()).hexdigest(), faults)
        return Inspection(self.data_hash, [])

    # ----- loaders -----

    def _loader(self, part: Part, indices: Tensor, train: bool = False) -> DataLoader[Batch]:
        batches = self._index_batches(PassBatches, indices, train)
        decoded = DecodedBatches(
            self._files(part), self._decoded(part), self.crops, self.seed if train and self.augment else None
        )
        return loader(batches, decoded, self._workers(), self._device().type == "cuda", train)

    def augmented(self, batch: Batch, number: int) -> Tensor:
        """Return the images unchanged, because the workers have augmented them."""
        return batch.x

    def _workers(self) -> int:
        """Return the number of workers for each of this run's processes on this machine."""
        if self.workers >= 0:
            return self.workers
        return max(1, cores() // (self.trainer.num_devices if self.trainer else 1))

    @rank_zero_only
    def _say_workers(self) -> None:
        if self.workers > (there := cores()):
            logging.getLogger("qra").warning(
                "workers is %d, but there are only %d cores: workers will share cores", self.workers, there
            )
