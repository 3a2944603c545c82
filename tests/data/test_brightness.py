"""Mean and spread of a data set: exact, and stored with the networks that normalize by them."""

import numpy as np
import torch

from qra.data import SyntheticDataModule
from qra.data.brightness import mean_and_std
from tests.data.computed import Computed


def test_mean_and_deviation_are_those_of_all_pixels():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (50, 3, 7, 5), np.uint8) // np.uint8(3))
    images[:, 1] //= 2
    mean, std = mean_and_std(images.split(8))
    pixels = images.double() / 255
    assert mean == [round(value, 4) for value in pixels.mean((0, 2, 3)).tolist()]
    assert std == [round(value, 4) for value in pixels.std((0, 2, 3), correction=0).tolist()]


def test_one_brightness_has_a_deviation_to_divide_by():
    images = torch.full((50, 1, 32, 32), 51, dtype=torch.uint8)
    assert mean_and_std([images]) == ([0.2], [0.0039])
    images[0, 0, 0, 0] = 52
    assert mean_and_std([images]) == ([0.2], [0.0039])


def test_a_data_set_measures_its_training_images():
    data = SyntheticDataModule(train_size=60, test_size=10, val_size=10, channels=1)
    data.setup("test")
    assert data.normalization() == mean_and_std([data.data.train.images])


def test_of_many_images_some_of_each_class_are_measured(monkeypatch):
    monkeypatch.setattr(Computed, "measured_images", 40)
    data = Computed()
    data.normalization()
    asked = [index for _, indices in data.fetched for index in indices]
    assert len(asked) == 40
    assert torch.bincount(data.labels("train")[asked]).tolist() == [10, 10, 10, 10]


def test_large_calibration_images_come_fewer_at_once():
    class Large(Computed):
        image_shape = (3, 2048, 512)

    data = Large(calibration_size=8)
    assert [len(batch.y) for batch in data.calibration_batches()] == [4, 4]
