"""Images of all kinds are decoded exactly, or refused by name; what is passed over is said."""

import logging
import struct

import numpy as np
import pytest
from PIL import Image

from qra.data import ImageFolderDataModule
from qra.data.decoding import UnreadableImageError, open_image
from qra.data.listing import list_images
from tests.data.image_tree import png16

RNG = np.random.default_rng(0)
GREY16 = RNG.integers(0, 2**16, (4, 5), np.uint16)
COLOUR16 = RNG.integers(0, 2**16, (4, 5, 3), np.uint16)


def rounded(values):
    """16 bits as the nearest of 8, white staying white, in whole numbers of arbitrary size."""
    return np.array([(2 * int(value) * 255 + 65535) // (2 * 65535) for value in values.flat]).reshape(values.shape)


def decoded(path, channels=3):
    return np.asarray(open_image(path, channels))


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bits_of_grey_become_the_nearest_8(tmp_path, ending):
    file = tmp_path / f"x.{ending}"
    (Image.fromarray(GREY16.astype(np.int32)) if ending == "pgm" else Image.fromarray(GREY16)).save(file)
    assert np.array_equal(decoded(file, 1), rounded(GREY16))
    assert np.array_equal(decoded(file), rounded(GREY16)[..., None].repeat(3, 2))


def test_16_bits_of_colour_become_the_nearest_8(tmp_path):
    (tmp_path / "x.png").write_bytes(png16(COLOUR16))
    assert np.array_equal(decoded(tmp_path / "x.png"), rounded(COLOUR16))


@pytest.mark.parametrize("bits", [0, 64, 128, 255])
def test_what_8_bits_can_say_16_bits_say_too(tmp_path, bits):
    (tmp_path / "x.png").write_bytes(png16(np.full((2, 2), 257 * bits, np.uint16)))
    assert (decoded(tmp_path / "x.png") == bits).all()


@pytest.mark.parametrize(
    ("pixels", "named"),
    [
        (GREY16.astype(np.float32), "its mode is F of 32 bits in a TIFF file"),
        (GREY16.astype(np.int32), "its mode is I of 32 bits in a TIFF file"),
    ],
)
def test_what_has_no_counterpart_in_8_bits_is_refused_by_name(tmp_path, pixels, named):
    Image.fromarray(pixels).save(tmp_path / "x.tif")
    with pytest.raises(UnreadableImageError, match=f"x.tif cannot be decoded as an image .{named}"):
        open_image(tmp_path / "x.tif")


def test_signed_bytes_are_refused_by_name(tmp_path):
    Image.fromarray(RNG.integers(0, 256, (4, 5), np.uint8)).save(tmp_path / "x.tif", tiffinfo={339: 2})
    with pytest.raises(UnreadableImageError, match="its mode is signed L of 8 bits in a TIFF file"):
        open_image(tmp_path / "x.tif")


def test_a_program_in_the_place_of_an_image_is_not_run(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.jpg", "EPS")
    with pytest.raises(UnreadableImageError, match="its content is not a known image format"):
        open_image(tmp_path / "x.jpg")


def test_whatever_the_reader_of_a_damaged_file_raises_names_it(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.tif")
    content = (tmp_path / "x.tif").read_bytes()
    offsets, as_float = struct.pack("<HH", 273, 4), struct.pack("<HH", 273, 11)
    assert offsets in content
    (tmp_path / "x.tif").write_bytes(content.replace(offsets, as_float))
    with pytest.raises(UnreadableImageError, match=r"x\.tif cannot be decoded as an image"):
        open_image(tmp_path / "x.tif")


def test_nothing_is_said_of_a_damaged_description_of_a_photograph(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\5\0\x12\1")
    assert not decoded(tmp_path / "x.jpg").any()


def test_lab_is_refused_by_name(tmp_path):
    Image.new("LAB", (4, 4)).save(tmp_path / "x.tif")
    with pytest.raises(UnreadableImageError, match="its mode is LAB"):
        open_image(tmp_path / "x.tif")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_grey_stays_grey_in_one_channel_and_in_three(tmp_path, mode):
    grey = Image.fromarray(RNG.integers(0, 256, (4, 5), np.uint8))
    expected = np.asarray(grey.convert("1").convert("L") if mode == "1" else grey)
    grey.convert(mode).save(tmp_path / "x.png")
    assert np.array_equal(decoded(tmp_path / "x.png", 1), expected)
    assert np.array_equal(decoded(tmp_path / "x.png"), expected[..., None].repeat(3, 2))


@pytest.fixture
def tree(tmp_path):
    """Grey images of two classes, half of them one folder deeper, with endings of all kinds."""
    for part in ("train", "test"):
        for name in "ab":
            (tmp_path / part / name / "more").mkdir(parents=True)
            for number, file in enumerate(("z.jfif", "more/a.png", "more/b.PNM", "y.jpe")):
                path = tmp_path / part / name / file
                kind = {"jfif": "JPEG", "jpe": "JPEG", "PNM": "PPM", "png": "PNG"}[file.split(".")[1]]
                Image.new("L", (8, 8), 10 * number).save(path, kind)
    return tmp_path


def test_folders_in_a_class_and_rarer_endings_count(tree):
    data = ImageFolderDataModule(str(tree)).load()
    assert len(data.train) == len(data.test) == 8
    files = list_images(tree / "train")
    assert [files.name(i) for i in range(4)] == ["a/more/a.png", "a/more/b.PNM", "a/y.jpe", "a/z.jfif"]


def test_grey_folders_keep_one_channel_where_asked(tree):
    data = ImageFolderDataModule(str(tree), channels=1).load()
    assert data.train.images.shape == (8, 1, 8, 8)
    assert data.train.images[:4, 0, 0, 0].tolist() == [10, 20, 30, 0]
    assert ImageFolderDataModule(str(tree)).load().train.images.shape == (8, 3, 8, 8)
    with pytest.raises(ValueError, match="channels is 2: it must be 3"):
        ImageFolderDataModule(str(tree), channels=2)


def test_what_is_passed_over_is_counted_and_named(tree, caplog):
    for name in ("train/a/notes.txt", "train/readme", "test/b/more/.hidden.png", "test/b/x.psd"):
        (tree / name).write_text("no image")
    with caplog.at_level(logging.WARNING, "qra"):
        assert len(ImageFolderDataModule(str(tree)).load().train) == 8
    assert caplog.messages == [
        f"{tree}: files skipped, as their names are not those of images (4): "
        "train/a/notes.txt, train/readme, test/b/more/.hidden.png and 1 more"
    ]


def test_nothing_is_said_where_all_is_used(tree, caplog):
    with caplog.at_level(logging.WARNING, "qra"):
        ImageFolderDataModule(str(tree)).load()
    assert caplog.messages == []


def test_links_to_folders_are_not_followed(tree):
    (tree / "train/a/loop").symlink_to(tree / "train")
    files = list_images(tree / "train")
    assert len(files) == 8
    assert files.passed_over.names == ["train/a/loop"]
