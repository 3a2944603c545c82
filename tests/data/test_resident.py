import pytest
import torch
from test_data_module import Noise, Recorder, made
from trivial import trainer

import qra.data.tensors
from qra.data import random_crop_flip
from qra.data.resident import AugmentedImages, fits


def epochs(**settings):
    recorder = Recorder()
    trainer(num_sanity_val_steps=0).fit(recorder, datamodule=made(**settings))
    return recorder.batches


@pytest.mark.parametrize("settings", [{}, {"fraction": 0.5, "budget": "steps"}, {"augment": False}], ids=str)
def test_batches_kept_on_the_device_are_those_of_the_host(settings, monkeypatch):
    expected = epochs(**settings)
    kept = []
    monkeypatch.setattr(qra.data.tensors, "fits", lambda device, *images: kept.append(images) is None)
    found = epochs(**settings)
    assert kept
    assert found.keys() == expected.keys()
    for stage, batches in expected.items():
        for ours, theirs in zip(found[stage], batches, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_images_of_a_pass_are_augmented_as_any_batch_of_them():
    data = made().data.train
    used = torch.arange(10, 90)
    augmented = AugmentedImages(data.images, used, seed=3)
    for number in (0, 5):
        images = augmented.of_pass(number)
        batch = torch.tensor([80, 11, 42])
        assert torch.equal(images[batch], random_crop_flip(data.images[batch], batch, 3, number))


def test_a_cpu_keeps_nothing_twice():
    module = Noise(batch_size=16, val_size=20, calibration_size=8)
    module.setup()
    assert not fits(torch.device("cpu"), module.data.train.images)
