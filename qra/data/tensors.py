"""Images in memory, fetched a whole batch at a time and stored on the device if they fit."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from qra.data.module import ImageDataModule, Part
from qra.data.resident import AugmentedImages, fits
from qra.types import Batch


@dataclass(frozen=True)
class ImageSet:
    """Images in memory with their labels.

    Attributes:
        images: uint8, (N, C, H, W).
        labels: Class numbers, int64, (N,).
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            given = f"a {type(self.images).__name__} of {self.images.dtype} {tuple(self.images.shape)}"
            raise ValueError(f"images must be a tensor of uint8 (N, C, H, W), not {given}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"labels must be int64, one for each of the {len(self.images)} images")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageData:
    """A data set: training and test images of the same classes.

    Attributes:
        train: Training images; None for a set that can only be tested.
        test: Test images.
        class_names: Name of each class number.
    """

    train: ImageSet | None
    test: ImageSet
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.class_names) < 2:
            raise ValueError(f"the data has the classes {list(self.class_names)}: at least 2 are needed")
        if twice := [name for name in self.class_names if self.class_names.count(name) > 1]:
            raise ValueError(f"two classes of the data are called {twice[0]!r}: give each a different name")
        if len(self.test) == 0:
            raise ValueError("the data has no test images: at least 1 is needed")
        labels = torch.cat([each.labels for each in self.sets])
        if labels.min() < 0 or labels.max() >= len(self.class_names):
            raise ValueError(
                f"labels range from {labels.min()} to {labels.max()}, but there are {len(self.class_names)} class names"
            )
        shapes = [tuple(each.images.shape[1:]) for each in self.sets]
        if shapes[0] != shapes[-1]:
            raise ValueError(
                f"training images are {shapes[0]} and test images {shapes[-1]}: they must have the same shape"
            )

    @property
    def sets(self) -> tuple[ImageSet, ...]:
        """The available sets, training first."""
        return (self.test,) if self.train is None else (self.train, self.test)

    def part(self, name: Part) -> ImageSet | None:
        """Return the set of a part; None if there is no such part."""
        return self.train if name == "train" else self.test

    @cached_property
    def hash(self) -> str:
        """sha256 over shapes, image bytes and labels, training set first."""
        digest = hashlib.sha256()
        for tensor in (tensor for each in self.sets for tensor in (each.images, each.labels)):
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


class TensorDataModule(ImageDataModule):
    """Images in memory as uint8, on the device if they fit.

    Custom data sets are subclasses that implement :meth:`load`. The arguments are those of :class:`ImageDataModule`.
    """

    _data: ImageData | None = None
    _kept: Mapping[Part, tuple[torch.device, ImageSet]] = MappingProxyType({})
    _augmented: AugmentedImages | None = None

    @abstractmethod
    def load(self) -> ImageData:
        """Read the whole data set, downloading or decoding it first if necessary. Called once in each process."""

    def prepare_data(self) -> None:
        # On each machine, Lightning calls this in one process before the others reach `setup`, so a download or
        # decoding is done only once. The process keeps what it has read.
        self._load_once()

    def setup(self, stage: str | None = None) -> None:
        """Read the data once for all stages, and check that the settings fit it as far as the stage requires."""
        self._load_once()
        super().setup(stage)

    def _load_once(self) -> None:
        if self._data is None:
            loaded: Any = self.load()
            if not isinstance(loaded, ImageData):
                kind = type(loaded).__name__
                raise ValueError(f"{type(self).__name__}.load returned a {kind}: it must return a qra.data.ImageData")
            self._data = loaded

    @property
    def data(self) -> ImageData:
        """The whole data set.

        Raises:
            RuntimeError: If :meth:`setup` has not been called.
        """
        if self._data is None:
            raise RuntimeError(f"{type(self).__name__} holds no data yet: call setup() first")
        return self._data

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class number."""
        return self.data.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.data.test.images.shape
        return channels, height, width

    @property
    def data_hash(self) -> str:
        """sha256 over the image bytes and labels of both sets."""
        return self.data.hash

    def labels(self, part: Part) -> Tensor:
        """Return the class numbers of all images of a part, int64 on the CPU, (N,); empty if there is no such part."""
        stored = self.data.part(part)
        return torch.empty(0, dtype=torch.int64) if stored is None else stored.labels

    def fetch(self, part: Part, indices: Tensor) -> Batch:
        """Return stored images with their labels and indices, on the device if they are stored there."""
        stored = self._where_used(part)
        indices = indices.to(stored.images.device, non_blocking=True)
        return Batch(stored.images[indices], stored.labels[indices], indices)

    def _where_used(self, part: Part) -> ImageSet:
        """Return the images of a part on the trainer's device if all images fit there, else in main memory."""
        device = self._device()
        if part not in self._kept or self._kept[part][0] != device:
            stored = self.data.part(part)
            if stored is None:
                raise ValueError("the data has no training images")
            training_twice = [each.images for each in (*self.data.sets[:1], *self.data.sets)]
            if fits(device, *training_twice):
                stored = ImageSet(stored.images.to(device), stored.labels.to(device))
            self._kept = {**self._kept, part: (device, stored)}
        return self._kept[part][1]

    def train_dataloader(self) -> DataLoader[Batch]:
        images = self._where_used("train").images
        on_host = self.data.train is not None and images is self.data.train.images
        self._augmented = None
        if self.augment and not on_host:
            self._augmented = AugmentedImages(images, self.train_indices, self.seed)
        return super().train_dataloader()

    def augmented(self, batch: Batch, number: int) -> Tensor:
        """Augment the images of a training batch; on the device, all images of a pass are augmented at once."""
        if self._augmented is None:
            return super().augmented(batch, number)
        return self._augmented.of_pass(number)[batch.indices]
