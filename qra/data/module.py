"""The contract of all data modules: what an index is, and batches by index for everything that needs images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import ClassVar, Literal, TypeVar, get_args

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from qra.checks import check_choice, check_count, check_in
from qra.data.augment import random_crop_flip, to_pixels
from qra.data.brightness import mean_and_std
from qra.data.inspection import Inspection
from qra.data.sampling import IndexBatches, balanced_subset, nested_subset, stratified_prefix, val_split
from qra.running import batches_done
from qra.types import Batch

Budget = Literal["epochs", "steps"]
Part = Literal["train", "test"]
"""The parts of a data set."""
Batches = TypeVar("Batches", bound=IndexBatches)

CALIBRATION_PIXELS = 2**22
"""Pixels of a batch of calibration images, at most: 83 images of 224 x 224, whatever a training step takes."""


class _Batches(Dataset[Batch]):
    """Fetches a whole batch at once."""

    def __init__(self, fetch: Callable[[Tensor], Batch]) -> None:
        self.fetch = fetch

    def __getitem__(self, indices: Tensor) -> Batch:
        return self.fetch(indices)


class ImageDataModule(LightningDataModule, ABC):
    """A data set by part and index: splits, shares of ranks, loaders for Lightning and batches for all else.

    An index is a position in the whole part ``train`` or ``test``, also where some is left out, so it names an image in
    every run. Validation images are cut from ``train``, never from ``test``. A set without training images can be
    tested.

    A kind of data set is a subclass that writes :meth:`labels`, :meth:`fetch`, :attr:`class_names`,
    :attr:`image_shape` and :attr:`data_hash`. Where all images fit into memory, derive from
    :class:`TensorDataModule` instead.

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

    measured_images: ClassVar[int] = 50_000
    """Training images that mean and standard deviation are taken of, at most."""
    made_up: ClassVar[bool] = False
    """Whether a program draws the images, so that results say nothing about photographs."""

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
        check_count("batch_size", batch_size)
        check_count("val_size", val_size, 0)
        check_in("fraction", fraction, "(0, 1]")
        check_choice("budget", budget, get_args(Budget))
        check_count("calibration_size", calibration_size)
        self.batch_size = batch_size
        self.val_size = val_size
        self.fraction = fraction
        self.budget = budget
        self.split_seed = split_seed
        self.seed = seed
        self.augment = augment
        self.calibration_size = calibration_size

    # ----- what a kind of data set says of itself -----

    @abstractmethod
    def labels(self, part: Part) -> Tensor:
        """Class numbers of all images of a part, int64 on the CPU, (N,); none if there is no such part."""

    @abstractmethod
    def fetch(self, part: Part, indices: Tensor) -> Batch:
        """Images as they are stored, uint8, with their labels and indices, on the device where they lie.

        Args:
            part: The part that they are of.
            indices: Positions in it, int64 on the CPU, (n,).
        """

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """Name of each class number."""

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""

    @property
    @abstractmethod
    def data_hash(self) -> str:
        """sha256 that tells this data set from any other, hexadecimal."""

    @property
    def training_hash(self) -> str:
        """sha256 that changes with any image that a training depends on; tests may need fewer."""
        return self.data_hash

    def inspect(self, full: bool) -> Inspection:
        """Read what is read only when it is needed, and say what is wrong there; nothing if all was read.

        Args:
            full: Whether to read all images, where some are enough to begin a run.
        """
        return Inspection(self.data_hash, [])

    # ----- what an index is -----

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def size(self, part: Part) -> int:
        """Number of images of a part; 0 if there is no such part."""
        return len(self.labels(part))

    def setup(self, stage: str | None = None) -> None:
        """See that the settings fit the data, as far as a stage needs it.

        Raises:
            ValueError: If ``val_size`` or ``batch_size`` does not fit the data, or there are no training images to
                train or validate on.
        """
        if stage in ("fit", "validate") or (stage is None and self.size("train")):
            self._check_fits("batch_size")

    def check_calibration(self) -> None:
        """See that there are calibration images.

        Raises:
            ValueError: If there are not as many as ``calibration_size``.
        """
        self._check_fits("calibration_size")

    def _check_fits(self, name: str) -> None:
        value, left = getattr(self, name), len(self.train_indices)
        if value > left:
            raise ValueError(
                f"{name} is {value}, but only {left} of {self.size('train')} training images are left by val_size "
                f"{self.val_size} and fraction {self.fraction:g}: lower {name}"
            )

    @cached_property
    def _split(self) -> tuple[Tensor, Tensor]:
        """Sorted positions of the training images before ``fraction``, and of the validation images."""
        self._check_trains()
        return val_split(self.labels("train"), self.val_size, self.split_seed)

    def _check_trains(self) -> None:
        if self.size("train") == 0:
            raise ValueError(
                "the data has no training images: it can be tested, but to train, validate or calibrate give a data "
                "set that has some (images in folders: train/<class>/*)"
            )

    @property
    def val_indices(self) -> Tensor:
        """Sorted positions of the validation images in the training set, (val_size,)."""
        return self._split[1]

    @cached_property
    def train_indices(self) -> Tensor:
        """Sorted positions of the images that are trained on, (M,)."""
        return nested_subset(self.labels("train"), self._split[0], self.fraction, self.split_seed)

    @property
    def calibration_indices(self) -> Tensor:
        """Positions of the calibration images, in an order whose every prefix is balanced, (calibration_size,).

        Raises:
            ValueError: If there are not as many.
        """
        self.check_calibration()
        labels = self.labels("train")[self.train_indices]
        return self.train_indices[stratified_prefix(labels, self.calibration_size, self.split_seed)]

    def choose(self, part: Part, n: int | None, seed: int = 0, among: Tensor | None = None) -> Tensor:
        """Choose images for an evaluation, as evenly over the classes as they are there.

        Args:
            part: Where from.
            n: Number of images; all of them if there are fewer, or for None.
            seed: Names the nest of subsets: a smaller ``n`` chooses from the same images.
            among: Positions to choose from, (M,); the whole part if not given.

        Returns:
            Sorted positions, (n,).
        """
        labels = self.labels(part)
        candidates = torch.arange(len(labels)) if among is None else among
        count = len(candidates) if n is None else min(n, len(candidates))
        return candidates[balanced_subset(labels[candidates], count, seed)]

    def share(self, indices: Tensor) -> Tensor:
        """What this process does of some work on images: every ``world_size``-th index."""
        rank, world_size = self._place()
        return indices[rank::world_size]

    def _place(self) -> tuple[int, int]:
        """Number of this process and of all."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _device(self) -> torch.device:
        """Where the trainer works."""
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def normalization(self) -> tuple[list[float], list[float]] | None:
        """Mean and standard deviation of each channel, which networks of their own normalize pixels by.

        Returns:
            Those of training images, up to :attr:`measured_images` of them, in pixel units; None for those that
            networks have anyway.

        Raises:
            ValueError: If there are no training images.
        """
        self._check_trains()
        images = self.choose("train", self.measured_images)
        return mean_and_std(self.fetch("train", some).x for some in torch.split(images, 250))

    # ----- batches for evaluation and calibration -----

    def batch(self, part: Part, indices: Tensor, device: torch.device | None = None) -> Batch:
        """Images by index, as a network takes them: float32 pixels in [0, 1].

        Args:
            part: The part that they are of.
            indices: Positions in it, (n,).
            device: Where to; where the trainer works if not given.

        Raises:
            IndexError: If an index is of no image.
        """
        indices, size = indices.cpu(), self.size(part)
        if len(indices) and not 0 <= indices.min() <= indices.max() < size:
            raise IndexError(f"indices run from {indices.min()} to {indices.max()}, but {part} has {size} images")
        device = self._device() if device is None else device
        x, y, indices = (each.to(device) for each in self.fetch(part, indices))
        return Batch(to_pixels(x), y, indices)

    def batches(
        self, part: Part, indices: Tensor, batch_size: int = 250, device: torch.device | None = None
    ) -> Iterator[Batch]:
        """Images by index in batches, in the order given; see :meth:`batch`. One empty batch for no index."""
        for some in torch.split(indices, batch_size):
            yield self.batch(part, some, device)

    def calibration_batches(self, device: torch.device | None = None) -> Iterator[Batch]:
        """The calibration images, not augmented, all of them on every rank; fewer at once where they are large.

        Raises:
            ValueError: If there are not as many.
        """
        _, height, width = self.image_shape
        at_once = max(1, min(self.batch_size, CALIBRATION_PIXELS // (height * width)))
        return self.batches("train", self.calibration_indices, at_once, device)

    # ----- loaders for Lightning -----

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader("train", self.train_indices, train=True)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        return self._loader("train", self.val_indices) if self.val_size else []

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader("test", torch.arange(self.size("test")))

    def predict_dataloader(self) -> DataLoader[Batch]:
        return self.test_dataloader()

    def _loader(self, part: Part, indices: Tensor, train: bool = False) -> DataLoader[Batch]:
        """Serve this rank's part of each global batch."""
        batches = self._index_batches(IndexBatches, indices, train)
        # With a generator of its own, a loader leaves the global one alone.
        fetch = _Batches(partial(self.fetch, part))
        return DataLoader(fetch, sampler=batches, batch_size=None, generator=torch.Generator())

    def _index_batches(self, kind: type[Batches], indices: Tensor, train: bool) -> Batches:
        """This rank's part of the indices of each global batch."""
        rank, world_size = self._place()
        if self.trainer and world_size > 1 and self.trainer._accelerator_connector.use_distributed_sampler:
            raise ValueError(
                "the data modules share out the data themselves: use Trainer(use_distributed_sampler=False)"
            )
        if train and self.batch_size % world_size:
            raise ValueError(
                f"batch_size is {self.batch_size} over all devices: make it a multiple of the {world_size} devices"
            )
        length = self._epoch_length if train else None
        batches = kind(indices, self.batch_size, train, self.seed, rank, world_size, train, length)
        if train and self.trainer is not None:
            batches.begin = partial(batches_done, self.trainer)
        return batches

    @property
    def _epoch_length(self) -> int | None:
        """Steps of an epoch that is to be as long as one of all images; None for one pass."""
        stretched = self.budget == "steps" and self.fraction < 1
        return len(self._split[0]) // self.batch_size if stretched else None

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turn uint8 into float32 pixels in [0, 1] on the device and, while training, augment."""
        x = batch.x
        if self.augment and self.trainer is not None and self.trainer.training:
            x = self.augmented(batch, self._passes_done(self.trainer))
        return batch._replace(x=to_pixels(x))

    def augmented(self, batch: Batch, number: int) -> Tensor:
        """Images of a training batch, changed by what is drawn for each index in a pass.

        Args:
            batch: uint8 images on the device.
            number: Number of the pass through the training images.

        Returns:
            uint8, (N, C, H, W).
        """
        return random_crop_flip(batch.x, batch.indices, self.seed, number)

    def _passes_done(self, trainer: Trainer) -> int:
        """How often the training images were gone through: what is drawn for an image changes with it."""
        if self._epoch_length is None:
            return trainer.current_epoch
        begun = trainer.current_epoch * self._epoch_length + trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return begun * self.batch_size // len(self.train_indices)


def data_of(trainer: Trainer) -> ImageDataModule:
    """The data module that a trainer works with.

    Raises:
        ValueError: If it works with loaders alone, or with a data module of another kind.
    """
    found = getattr(trainer, "datamodule", None)
    if not isinstance(found, ImageDataModule):
        raise ValueError(f"the data is {type(found).__name__}: derive it from qra.data.ImageDataModule")
    return found
