"""Images that are decoded once into a file: the same batches, and nothing but what the file is of."""

import os

import pytest
import torch
from test_streamed import are_equal, collected, error_of, streamed

from tests.data.image_tree import make_tree, truncate


@pytest.fixture
def root(tmp_path):
    make_tree(tmp_path / "tree", {"train": 4, "val": 3}, classes=2, sides=(40, 90))
    return tmp_path / "tree"


def garble(file):
    """Overwrite a file so that its size and time of change stay."""
    status = file.stat()
    file.write_bytes(bytes(status.st_size))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


SMALL = {"val_size": 2, "batch_size": 3, "calibration_size": 2}


@pytest.mark.parametrize("decode", ["pillow", "torchvision"])
def test_batches_are_the_same_and_come_from_the_cache(root, tmp_path, decode):
    plain = streamed(root, decode=decode, **SMALL)
    expected = collected(plain.train_dataloader(), 2), collected(plain.test_dataloader()), plain.data_hash
    streamed(root, cache=tmp_path / "cache", **SMALL)
    for file in root.rglob("*.*"):
        garble(file)
    data = streamed(root, cache=tmp_path / "cache", decode=decode, workers=1, **SMALL)
    assert are_equal(collected(data.train_dataloader(), 2), expected[0])
    assert are_equal(collected(data.test_dataloader()), expected[1])
    assert data.data_hash == expected[2]


def test_tests_decode_no_training_images(root, tmp_path):
    data = streamed(root, "test", cache=tmp_path / "cache")
    assert data.fetch("train", torch.arange(2)).x.shape == (2, 3, 32, 32)
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["test.images"]


@pytest.mark.parametrize(
    "change", ["channels", "an image", "the head of a file", "half a file", "a longer file", "nothing"]
)
def test_a_cache_of_something_else_is_refused_in_one_line(root, tmp_path, change):
    streamed(root, "test", cache=tmp_path / "cache")
    file = tmp_path / "cache/test.images"
    if change == "an image":
        (root / "val/class00/000.JPEG").unlink()
    elif change == "the head of a file":
        file.write_bytes(file.read_bytes()[:90])
    elif change == "half a file":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif change == "a longer file":
        file.write_bytes(2 * file.read_bytes())
    elif change == "nothing":
        file.write_bytes(b"")
    before = file.read_bytes()
    settings = {"channels": 1} if change == "channels" else {}
    assert error_of(root, "test", cache=tmp_path / "cache", **settings) == (
        f"{file} is a cache of other images, of images decoded in another way, or incomplete: delete it, or give "
        "another directory or null by --data.cache"
    )
    assert file.read_bytes() == before


def test_a_cache_that_is_no_directory_is_named(root, tmp_path):
    (tmp_path / "cache").touch()
    assert error_of(root, "test", cache=tmp_path / "cache").startswith(f"{tmp_path}/cache is not a directory")


def test_an_image_that_cannot_be_decoded_leaves_no_cache(root, tmp_path):
    truncate(next((root / "val/class01").iterdir()))
    assert "cannot be decoded as an image" in error_of(root, "test", cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
