import itertools

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from qra.data import random_crop_flip, to_pixels

IMAGES = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
INDICES = torch.arange(1000, 1064)


def what_torchvision_can_make(image, padding):
    """Every crop and flip of one image: {(top, left, mirrored): image}."""
    padded = TF.pad(image, [padding])
    size = image.shape[1:]
    places = itertools.product(range(2 * padding + 1), repeat=2)
    crops = {(top, left): TF.crop(padded, top, left, *size) for top, left in places}
    flipped = {(*place, True): TF.horizontal_flip(crop) for place, crop in crops.items()}
    return {(*place, False): crop for place, crop in crops.items()} | flipped


def choices(images, augmented, padding):
    """Which crop and flip each image got."""
    found = []
    for image, out in zip(images, augmented, strict=True):
        matches = [c for c, crop in what_torchvision_can_make(image, padding).items() if torch.equal(crop, out)]
        assert len(matches) == 1
        found += matches
    return found


def test_each_image_is_one_crop_and_flip_of_torchvisions():
    choices(IMAGES[:8], random_crop_flip(IMAGES[:8], INDICES[:8], seed=0, epoch=0), padding=4)


def test_images_need_not_be_square():
    tall = IMAGES[:8, :, :6, :4]
    choices(tall, random_crop_flip(tall, INDICES[:8], seed=0, epoch=0, padding=2), padding=2)


def test_all_places_are_equally_likely_and_half_the_images_are_mirrored():
    small = torch.rand(900, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    found = choices(small, random_crop_flip(small, torch.arange(900), seed=5, epoch=2, padding=1), padding=1)
    _, often = np.unique(np.array(found), axis=0, return_counts=True)
    assert len(often) == 18
    assert ((often - 50) ** 2 / 50).sum() < 40.8  # chi-square, 17 degrees of freedom: exceeded once in 1000


def test_an_image_fares_the_same_in_every_batch():
    whole = random_crop_flip(IMAGES, INDICES, seed=1, epoch=2)
    shuffled = torch.randperm(64)
    parts = [random_crop_flip(IMAGES[part], INDICES[part], seed=1, epoch=2) for part in shuffled.split(7)]
    assert torch.equal(torch.cat(parts), whole[shuffled])


@pytest.mark.parametrize("other", [{"seed": 1, "epoch": 3}, {"seed": 2, "epoch": 2}])
def test_another_seed_or_epoch_draws_anew(other):
    images = IMAGES[:1].expand(64, -1, -1, -1)
    first = random_crop_flip(images, INDICES, seed=1, epoch=2)
    same = (first == random_crop_flip(images, INDICES, **other)).flatten(1).all(1)
    assert same.sum() < 5


def test_bytes_and_pixels_are_augmented_alike():
    images = (IMAGES * 255).to(torch.uint8)
    assert torch.equal(
        to_pixels(random_crop_flip(images, INDICES, 0, 0)), random_crop_flip(to_pixels(images), INDICES, 0, 0)
    )


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    random_crop_flip(IMAGES, INDICES, 0, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_pixels_are_the_nearest_floats_to_their_fractions():
    levels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(to_pixels(torch.from_numpy(levels)).numpy(), (levels / 255).astype(np.float32))


@pytest.mark.gpu
def test_a_gpu_augments_as_the_cpu_does():
    images = (IMAGES * 255).to(torch.uint8)
    on_gpu = to_pixels(random_crop_flip(images.cuda(), INDICES.cuda(), 3, 1))
    assert torch.equal(on_gpu.cpu(), to_pixels(random_crop_flip(images, INDICES, 3, 1)))
