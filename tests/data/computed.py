"""A data set that holds no images: it makes those that are asked for, and writes only what the contract asks for."""

import torch

from qra.data import ImageDataModule
from qra.types import Batch


class Computed(ImageDataModule):
    """100 training and 30 test images in 4 classes, darker or brighter; keeps what was fetched."""

    sizes = {"train": 100, "test": 30}  # noqa: RUF012
    class_names = ("a", "b", "c", "d")
    image_shape = (3, 4, 4)
    data_hash = "00"

    def __init__(self, **settings):
        super().__init__(**{"batch_size": 16, "val_size": 20, "calibration_size": 8, "augment": False, **settings})
        self.fetched = []

    def labels(self, part):
        return torch.arange(self.sizes[part]) % 4

    def fetch(self, part, indices):
        self.fetched.append((part, indices.tolist()))
        y = self.labels(part)[indices]
        offset = 1 if part == "train" else 0
        x = (60 * y + indices % 50 + offset).to(torch.uint8)[:, None, None, None].expand(-1, *self.image_shape)
        return Batch(x, y, indices)


class ForTesting(Computed):
    """30 test images and none for training."""

    sizes = {"train": 0, "test": 30}  # noqa: RUF012


class Untrainable(Computed):
    """One whose training images cannot be listed, in time."""

    def labels(self, part):
        assert part == "test"
        return super().labels(part)
