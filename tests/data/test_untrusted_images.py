"""Image folders of others: what would hang, or fill the memory, is refused by name."""

import os
import time

import numpy as np
import pytest
from PIL import Image

from qra.data import ImageFolderDataModule, decoding
from qra.data.image_cache import ImageCache


@pytest.fixture
def folder(tmp_path):
    for part in ("train", "test"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / part / name / f"{i}.png")
    return tmp_path


def load(folder):
    return ImageFolderDataModule(str(folder), val_size=0).load()


def test_a_pipe_among_the_images_is_named_and_not_waited_for(folder):
    os.mkfifo(folder / "train/a/pipe.png")
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"pipe\.png.*is not a regular file"):
        load(folder)
    assert time.monotonic() - start < 5


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(folder, monkeypatch):
    monkeypatch.setattr(decoding, "LARGEST", 63)
    with pytest.raises(ValueError, match="8 x 8 pixels, more than 63 in all"):
        load(folder)


def test_images_behind_links_are_read(folder):
    (folder / "train/a/link.png").symlink_to(folder / "train/b/0.png")
    assert len(load(folder).train) == 7


@pytest.mark.parametrize("images", [np.zeros((1, 3, 8, 8), np.uint8), np.zeros((6, 3, 8, 8)), np.zeros(6, np.uint8)])
def test_a_cache_that_is_not_of_these_images_is_made_anew(folder, images):
    expected = load(folder)
    cache = ImageCache(folder, "images-as-stored.npz")
    key = str(np.load(cache.paths[0])["key"])
    cache.write(key, {"train": images, "test": images})
    assert (load(folder).train.images == expected.train.images).all()
