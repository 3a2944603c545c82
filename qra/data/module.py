"""The common interface of all data modules: the meaning of an index, and batches by index."""

from __future__ import annotations

import logging
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
"""Largest number of pixels in a batch of calibration images: 83 images of 224 x 224, whatever the batch size."""


class _Batches(Dataset[Batch]):
    """Fetches a whole batch at once."""

    def __init__(self, fetch: Callable[[Tensor], Batch]) -> None:
        self.fetch = fetch

    def __getitem__(self, indices: Tensor) -> Batch:
        return self.fetch(indices)


class ImageDataModule(LightningDataModule, ABC):
    """Base class of data sets: images by part and index, splits, per-rank shares, loaders for Lightning and batches.

    An index is a position in the whole part ``train`` or ``test``, even if some images are left out, so it names the
    same image in every run. Validation images are taken from ``train``, never from ``test``. A data set without
    training images can be tested.

    Subclasses implement :meth:`labels`, :meth:`fetch`, :attr:`class_names`, :attr:`image_shape` and :attr:`data_hash`.
    If all images fit into memory, derive from :class:`TensorDataModule` instead.

    Args:
        batch_size: Images per step, over all devices together.
        val_size: Number of training images held out for validation.
        fraction: Fraction of the remaining training images to use, in (0, 1]; smaller fractions are nested in larger
            ones.
        split_seed: Seed of the validation split, of the subset that ``fraction`` takes and of the calibration images.
        seed: Seed of the order and the augmentation of the training images.
        augment: Whether to randomly crop (with zero padding of 4 pixels) and mirror the training images.
        calibration_size: Number of training images, not augmented, that calibrate a quantized network.
        budget: What stays equal when ``fraction`` is below 1: ``epochs``, so that an epoch has fewer steps, or
            ``steps``, so that an epoch has as many steps as one of all images and passes through its images several
            times.

    Raises:
        ValueError: If a value is out of range.
    """

    measured_images: ClassVar[int] = 50_000
    """Largest number of training images from which mean and standard deviation are computed."""
    made_up: ClassVar[bool] = False
    """Whether the images are synthetic, so that results say nothing about photographs."""

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

    # ----- what subclasses implement -----

    @abstractmethod
    def labels(self, part: Part) -> Tensor:
        """Return the class numbers of all images of a part, int64 on the CPU, (N,); empty if there is no such part."""

    @abstractmethod
    def fetch(self, part: Part, indices: Tensor) -> Batch:
        """Return stored images, uint8, with their labels and indices, on the device where they are stored.

        Args:
            part: The part of the data set.
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
        """Hexadecimal sha256 that identifies the data set."""

    @property
    def training_hash(self) -> str:
        """sha256 that changes with any image that training depends on; tests may depend on fewer."""
        return self.data_hash

    def inspect(self, full: bool) -> Inspection:
        """Read what is otherwise read only when needed, and report faults; none if everything was read already.

        Args:
            full: Whether to read all images, instead of only as many as a run reads at its start.
        """
        return Inspection(self.data_hash, [])

    # ----- indices -----

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def size(self, part: Part) -> int:
        """Return the number of images of a part; 0 if there is no such part."""
        return len(self.labels(part))

    def setup(self, stage: str | None = None) -> None:
        """Check that the settings fit the data, as far as a stage depends on them; tell if most images are held out.

        Raises:
            ValueError: If ``val_size`` or ``batch_size`` does not fit the data, or there are no training images to
                train or validate on.
        """
        if stage in ("fit", "validate") or (stage is None and self.size("train")):
            self._check_fits("batch_size")
        if stage == "fit" and 2 * self.val_size > self.size("train"):
            logging.getLogger("qra").warning(
                "only %d of %d training images are left after val_size %d: lower --data.val_size to train on more",
                self.size("train") - self.val_size,
                self.size("train"),
                self.val_size,
            )

    def check_calibration(self) -> None:
        """Check that there are enough training images for calibration.

        Raises:
            ValueError: If there are fewer than ``calibration_size``.
        """
        self._check_fits("calibration_size")

    def _check_fits(self, name: str) -> None:
        value, left = getattr(self, name), len(self.train_indices)
        if value > left:
            raise ValueError(
                f"{name} is {value}, but only {left} of {self.size('train')} training images are left after val_size "
                f"{self.val_size} and fraction {self.fraction:g}: lower {name}"
            )

    @cached_property
    def _split(self) -> tuple[Tensor, Tensor]:
        """Sorted positions of the training images before ``fraction`` is applied, and of the validation images."""
        self._check_trains()
        return val_split(self.labels("train"), self.val_size, self.split_seed)

    def _check_trains(self) -> None:
        if self.size("train") == 0:
            raise ValueError(
                "the data has no training images: it can be used for tests, but to train, validate or calibrate give a "
                "data set that has some (images in folders: train/<class>/*)"
            )

    @property
    def val_indices(self) -> Tensor:
        """Sorted positions of the validation images in the training set, (val_size,)."""
        return self._split[1]

    @cached_property
    def train_indices(self) -> Tensor:
        """Sorted positions of the images to train on, (M,)."""
        return nested_subset(self.labels("train"), self._split[0], self.fraction, self.split_seed)

    @property
    def calibration_indices(self) -> Tensor:
        """Positions of the calibration images, in an order with class-balanced prefixes, (calibration_size,).

        Raises:
            ValueError: If there are fewer training images than ``calibration_size``.
        """
        self.check_calibration()
        labels = self.labels("train")[self.train_indices]
        return self.train_indices[stratified_prefix(labels, self.calibration_size, self.split_seed)]

    def choose(self, part: Part, n: int | None, seed: int = 0, among: Tensor | None = None) -> Tensor:
        """Choose images for an evaluation, with classes in the proportions of the candidates.

        Args:
            part: The part of the data set.
            n: Number of images; all of them if there are fewer, or if None.
            seed: Seed of the nested subsets: a smaller ``n`` chooses a subset of the images of a larger one.
            among: Positions to choose from, (M,); the whole part if not given.

        Returns:
            Sorted positions, (n,).

        Raises:
            ValueError: If ``n`` is below 1, or there are no images to choose from.
        """
        labels = self.labels(part)
        candidates = torch.arange(len(labels)) if among is None else among
        count = len(candidates) if n is None else min(n, len(candidates))
        return candidates[balanced_subset(labels[candidates], count, seed)]

    def share(self, indices: Tensor) -> Tensor:
        """Return this process's share of the given indices: every ``world_size``-th one."""
        rank, world_size = self._place()
        return indices[rank::world_size]

    def _place(self) -> tuple[int, int]:
        """Return the rank of this process and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _device(self) -> torch.device:
        """Return the trainer's device; the CPU without a trainer."""
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def normalization(self) -> tuple[list[float], list[float]] | None:
        """Return the mean and standard deviation of each channel, by which new networks normalize pixels.

        Returns:
            Those of up to :attr:`measured_images` training images, in pixel units; None to keep the defaults of the
            network.

        Raises:
            ValueError: If there are no training images.
        """
        self._check_trains()
        images = self.choose("train", self.measured_images)
        return mean_and_std(self.fetch("train", some).x for some in torch.split(images, 250))

    # ----- batches for evaluation and calibration -----

    def batch(self, part: Part, indices: Tensor, device: torch.device | None = None) -> Batch:
        """Return images by index as network input: float32 pixels in [0, 1].

        Args:
            part: The part of the data set.
            indices: Positions in it, (n,).
            device: Device of the result; the trainer's device if not given.

        Raises:
            IndexError: If an index is out of range.
        """
        indices, size = indices.cpu(), self.size(part)
        if len(indices) and not 0 <= indices.min() <= indices.max() < size:
            raise IndexError(f"indices range from {indices.min()} to {indices.max()}, but {part} has {size} images")
        device = self._device() if device is None else device
        x, y, indices = (each.to(device) for each in self.fetch(part, indices))
        return Batch(to_pixels(x), y, indices)

    def batches(
        self, part: Part, indices: Tensor, batch_size: int = 250, device: torch.device | None = None
    ) -> Iterator[Batch]:
        """Yield images by index in batches, in the given order; see :meth:`batch`. No index gives one empty batch."""
        for some in torch.split(indices, batch_size):
            yield self.batch(part, some, device)

    def calibration_batches(self, device: torch.device | None = None) -> Iterator[Batch]:
        """Return all calibration images in batches, not augmented, on every rank; batches of large images are smaller.

        Raises:
            ValueError: If there are fewer training images than ``calibration_size``.
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
        """Return a loader of this rank's share of each global batch."""
        batches = self._index_batches(IndexBatches, indices, train)
        # A generator of its own leaves the global one unchanged.
        fetch = _Batches(partial(self.fetch, part))
        return DataLoader(fetch, sampler=batches, batch_size=None, generator=torch.Generator())

    def _index_batches(self, kind: type[Batches], indices: Tensor, train: bool) -> Batches:
        """Return this rank's share of the indices of each global batch."""
        rank, world_size = self._place()
        if self.trainer is not None:
            _check_sampling(self.trainer)
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
        """Steps of an epoch that is as long as an epoch of all images; None for one pass through the images used."""
        stretched = self.budget == "steps" and self.fraction < 1
        return len(self._split[0]) // self.batch_size if stretched else None

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Convert uint8 to float32 pixels in [0, 1] on the device, after augmentation if in training."""
        x = batch.x
        if self.augment and self.trainer is not None and self.trainer.training:
            x = self.augmented(batch, self._passes_done(self.trainer))
        return batch._replace(x=to_pixels(x))

    def augmented(self, batch: Batch, number: int) -> Tensor:
        """Augment the images of a training batch with the random draws of each index in a pass.

        Args:
            batch: uint8 images on the device.
            number: Number of the pass through the training images.

        Returns:
            uint8, (N, C, H, W).
        """
        return random_crop_flip(batch.x, batch.indices, self.seed, number)

    def _passes_done(self, trainer: Trainer) -> int:
        """Return the number of completed passes through the training images, which selects the random draws."""
        if self._epoch_length is None:
            return trainer.current_epoch
        begun = trainer.current_epoch * self._epoch_length + trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return begun * self.batch_size // len(self.train_indices)


def _check_sampling(trainer: Trainer) -> None:
    """Refuse settings by which Lightning would change which images a data module serves."""
    if trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
        raise ValueError(
            "data modules divide the data among devices themselves: use Trainer(use_distributed_sampler=False)"
        )
    if trainer.state.fn == "fit" and trainer.overfit_batches:  # type: ignore[attr-defined]
        raise ValueError(
            "overfit_batches does not work with the data modules of qra: to overfit on a few images, "
            "give the data module a fraction and augment=False"
        )


def data_of(trainer: Trainer) -> ImageDataModule:
    """Return the data module of a trainer.

    Raises:
        ValueError: If it has only loaders, or a data module of another kind.
    """
    found = getattr(trainer, "datamodule", None)
    if not isinstance(found, ImageDataModule):
        raise ValueError(
            f"the data is {type(found).__name__}: derive it from qra.data.ImageDataModule, and give it to the trainer "
            "as datamodule"
        )
    return found
