"""The base of all data modules: images in memory, fetched a whole batch at a time, augmented on the device."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from qra.data.augment import random_crop_flip, to_pixels
from qra.data.resident import AugmentedImages, fits
from qra.data.sampling import IndexBatches, nested_subset, stratified_prefix, val_split
from qra.types import Batch

Budget = Literal["epochs", "steps"]


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
            raise ValueError(f"images must be uint8 (N, C, H, W), not {self.images.dtype} {tuple(self.images.shape)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"labels must be int64, one for each of the {len(self.images)} images")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageData:
    """A data set: training and test images of the same classes.

    Attributes:
        train: Training images.
        test: Test images.
        class_names: Name of each class number.
    """

    train: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.class_names) < 2:
            raise ValueError(f"the data has the classes {list(self.class_names)}: at least 2 are needed")
        labels = torch.cat([self.train.labels, self.test.labels])
        if labels.min() < 0 or labels.max() >= len(self.class_names):
            raise ValueError(
                f"labels run from {labels.min()} to {labels.max()}, but there are {len(self.class_names)} class names"
            )
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            raise ValueError(
                f"training images are {tuple(self.train.images.shape[1:])} and test images "
                f"{tuple(self.test.images.shape[1:])}: they must have one shape"
            )

    @cached_property
    def hash(self) -> str:
        """sha256 over shapes, image bytes and labels, training set first."""
        digest = hashlib.sha256()
        for tensor in (self.train.images, self.train.labels, self.test.images, self.test.labels):
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


class _Batches(Dataset[Batch]):
    """Fetches a whole batch by one index operation."""

    def __init__(self, data: ImageSet) -> None:
        self.data = data

    def __getitem__(self, indices: Tensor) -> Batch:
        indices = indices.to(self.data.images.device, non_blocking=True)
        return Batch(self.data.images[indices], self.data.labels[indices], indices)

    def __len__(self) -> int:
        return len(self.data)


def _loader(data: ImageSet, batches: IndexBatches) -> DataLoader[Batch]:
    # With a generator of its own, a loader leaves the global one alone.
    return DataLoader(_Batches(data), sampler=batches, batch_size=None, generator=torch.Generator())


class TensorDataModule(LightningDataModule):
    """Images in memory as uint8: train, val, test and calibration loaders over them.

    A data set of your own is a subclass that implements :meth:`load`. Validation images are cut from the training
    set, never from the test set. The indices in a batch are positions in the whole training set (train, val,
    calibration) or in the whole test set.

    Args:
        batch_size: Images of one step, over all devices together.
        val_size: Images cut from the training set for validation.
        fraction: Share of the remaining training images to use, in (0, 1]; smaller shares are nested in larger ones.
        split_seed: Seed of the split, of the subset that ``fraction`` takes and of the calibration images.
        seed: Seed of the order of the training images and of their augmentation.
        augment: Randomly crop (4 pixels of zeros around) and mirror the training images.
        calibration_size: Training images, not augmented, that calibrate a quantized network.
        budget: What a fraction leaves equal: ``epochs``, each of fewer steps the fewer images there are, or ``steps``:
            an epoch then takes as many steps as one of all images and goes through its images several times.

    Raises:
        ValueError: If a value is out of its range.
    """

    def __init__(
        self,
        batch_size: int = 128,
        val_size: int = 1000,
        fraction: float = 1.0,
        split_seed: int = 0,
        seed: int = 0,
        augment: bool = True,
        calibration_size: int = 512,
        budget: Budget = "epochs",
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: it must be at least 1")
        if val_size < 0:
            raise ValueError(f"val_size is {val_size}: it must be at least 0")
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction is {fraction}: it must be larger than 0 and at most 1")
        if budget not in get_args(Budget):
            raise ValueError(f"budget is {budget!r}: choose one of {', '.join(get_args(Budget))}")
        if calibration_size < 1:
            raise ValueError(f"calibration_size is {calibration_size}: it must be at least 1")
        self.batch_size = batch_size
        self.val_size = val_size
        self.fraction = fraction
        self.budget = budget
        self.split_seed = split_seed
        self.seed = seed
        self.augment = augment
        self.calibration_size = calibration_size
        self._data: ImageData | None = None
        self._resident: dict[int, ImageSet] = {}  # by id of what it is a copy of
        self._augmented: AugmentedImages | None = None

    def load(self) -> ImageData:
        """Read the whole data set, fetching or decoding it first if need be; called once in each process."""
        raise NotImplementedError(f"{type(self).__name__} must define load()")

    def prepare_data(self) -> None:
        # Lightning lets one process of a machine come here before the others reach `setup`, so a download or a
        # decode is done once; what it has read it keeps.
        self._load_once()

    def setup(self, stage: str | None = None) -> None:
        """Read the data and split it, once for all stages.

        Raises:
            ValueError: If ``val_size``, ``batch_size`` or ``calibration_size`` does not fit the data.
        """
        labels = self._load_once().train.labels
        all_indices, self.val_indices = val_split(labels, self.val_size, self.split_seed)
        self.train_indices = nested_subset(labels, all_indices, self.fraction, self.split_seed)
        stretched = self.budget == "steps" and self.fraction < 1
        self._epoch_length = len(all_indices) // self.batch_size if stretched else None
        for name in ("batch_size", "calibration_size"):
            if getattr(self, name) > len(self.train_indices):
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but only {len(self.train_indices)} of {len(labels)} training "
                    f"images are left by val_size {self.val_size} and fraction {self.fraction:g}: lower {name}"
                )

    def _load_once(self) -> ImageData:
        if self._data is None:
            self._data = self.load()
        return self._data

    @property
    def data(self) -> ImageData:
        """The whole data set.

        Raises:
            RuntimeError: If :meth:`setup` was not called yet.
        """
        if self._data is None:
            raise RuntimeError(f"{type(self).__name__} holds no data yet: call setup() first")
        return self._data

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class number."""
        return self.data.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.data.train.images.shape
        return channels, height, width

    @property
    def data_hash(self) -> str:
        """sha256 over the image bytes and labels of both sets."""
        return self.data.hash

    def train_dataloader(self) -> DataLoader[Batch]:
        images = self._on_device(self.data.train).images
        self._augmented = None
        if self.augment and images is not self.data.train.images:
            self._augmented = AugmentedImages(images, self.train_indices, self.seed)
        return self._shard(self.data.train, self.train_indices, train=True)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        return self._shard(self.data.train, self.val_indices) if self.val_size else []

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._shard(self.data.test, torch.arange(len(self.data.test)))

    def predict_dataloader(self) -> DataLoader[Batch]:
        return self.test_dataloader()

    @property
    def calibration_indices(self) -> Tensor:
        """Positions of the calibration images, in an order whose every prefix is balanced, (calibration_size,)."""
        labels = self.data.train.labels[self.train_indices]
        return self.train_indices[stratified_prefix(labels, self.calibration_size, self.split_seed)]

    def calibration_dataloader(self) -> DataLoader[Batch]:
        """Serve the calibration images, all of them on every rank; turn them into pixels by :func:`to_pixels`."""
        return _loader(self.data.train, IndexBatches(self.calibration_indices, self.batch_size, False, self.seed))

    def _shard(self, data: ImageSet, indices: Tensor, train: bool = False) -> DataLoader[Batch]:
        """Serve this rank's part of each global batch."""
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        if trainer and world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
            raise ValueError(
                "the data modules share out the data themselves: use Trainer(use_distributed_sampler=False)"
            )
        if train and self.batch_size % world_size:
            raise ValueError(
                f"batch_size is {self.batch_size} over all devices: make it a multiple of the {world_size} devices"
            )
        length = self._epoch_length if train else None
        data = self._on_device(data)
        return _loader(data, IndexBatches(indices, self.batch_size, train, self.seed, rank, world_size, train, length))

    def _on_device(self, data: ImageSet) -> ImageSet:
        """The same images and labels where the trainer works, if they fit there."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        kept = self._resident.get(id(data))
        if kept is not None and kept.images.device == device:
            return kept
        train, test = self.data.train.images, self.data.test.images
        if not fits(device, train, train, test):
            return data
        self._resident[id(data)] = ImageSet(data.images.to(device), data.labels.to(device))
        return self._resident[id(data)]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turn uint8 into float32 pixels in [0, 1] on the device and, while training, augment."""
        x = batch.x
        if self.augment and self.trainer is not None and self.trainer.training:
            number = self._passes_done(self.trainer)
            if self._augmented is None:
                x = random_crop_flip(x, batch.indices, self.seed, number)
            else:
                x = self._augmented.of_pass(number)[batch.indices]
        return batch._replace(x=to_pixels(x))

    def _passes_done(self, trainer: Trainer) -> int:
        """How often the training images were gone through: what is drawn for an image changes with it."""
        if self._epoch_length is None:
            return trainer.current_epoch
        return trainer.global_step * self.batch_size // len(self.train_indices)
