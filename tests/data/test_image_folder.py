import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import Payload, refusal
from PIL import Image

from qra.data import ImageFolderDataModule, decoding
from qra.data.image_cache import ImageCache

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 2, 3, 6, 8, 3), np.uint8)  # part, class, image, H, W, RGB


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A tree of 12 PNG images, 8 wide and 6 high, of the classes a and b."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    for part, name, number in np.ndindex(2, 2, 3):
        path = tmp_path / "root" / ("train", "test")[part] / "ab"[name] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS[part, name, number]).save(path)
    return tmp_path / "root"


def load(root, image_size=None):
    return ImageFolderDataModule(str(root), image_size).load()


def is_as_drawn(data):
    return all(
        np.array_equal(images.images.reshape(2, 3, 3, 6, 8).permute(0, 1, 3, 4, 2), PIXELS[part])
        for part, images in enumerate((data.train, data.test))
    )


def cache_of(root, name="images-as-stored.npz"):
    return root / ".qra-cache" / name


def error_of(root, image_size=None):
    return refusal(lambda: load(root, image_size))


def mark(cache):
    """Change a pixel of a cache, which shows whether it is read."""
    with np.load(cache) as arrays:
        content = {name: arrays[name] for name in arrays}
    content["test"][0, 0, 0, 0] ^= 1
    np.savez(cache, **content)


def test_images_and_labels_follow_the_names(root):
    data = load(root)
    assert is_as_drawn(data)
    assert data.class_names == ("a", "b")
    assert data.train.labels.tolist() == data.test.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_more_images_than_one_thread_takes_stay_in_order(tmp_path):
    for part in ("train", "test"):
        for number in range(600):
            path = tmp_path / part / f"class{number % 2}" / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (1, 1), number // 4).save(path)
    expected = torch.cat([torch.arange(0, 600, 2), torch.arange(1, 600, 2)]) // 4
    assert torch.equal(load(tmp_path).train.images[:, 0, 0, 0], expected.to(torch.uint8))


def test_image_size_crops_around_the_centre_and_scales(root):
    data = load(root, image_size=6)
    assert np.array_equal(data.train.images[4].permute(1, 2, 0), PIXELS[0, 1, 1, :, 1:7])
    assert load(root, image_size=3).train.images.shape == (6, 3, 3, 3)


def test_the_second_load_reads_the_cache_and_leaves_it_as_it_is(root):
    load(root)
    mark(cache_of(root))
    before = cache_of(root).stat().st_mtime_ns
    assert not is_as_drawn(load(root))
    assert cache_of(root).stat().st_mtime_ns == before


def test_where_no_cache_can_be_written_the_images_are_used_all_the_same(root, tmp_path, caplog):
    (root / ".qra-cache").touch()
    (tmp_path / "user-cache").touch()
    assert is_as_drawn(load(root))
    assert "decoded images could not be cached for the next run" in caplog.text


def test_a_link_to_nothing_is_named(root):
    (root / "train/a/9.png").symlink_to("nowhere.png")
    assert "train/a/9.png is a link to a file that does not exist" in error_of(root)


def test_images_behind_links_are_read(root):
    (root / "train/a/link.png").symlink_to(root / "train/b/0.png")
    assert len(load(root).train) == 7


def test_a_pipe_among_the_images_is_named_and_not_waited_for(root):
    os.mkfifo(root / "train/a/pipe.png")
    assert "pipe.png cannot be decoded as an image" in (text := error_of(root))
    assert "is not a regular file" in text


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(root, monkeypatch):
    monkeypatch.setattr(decoding, "LARGEST", 47)
    assert "8 x 6 pixels, more than 47 in all" in error_of(root)


def test_a_changed_image_is_decoded_anew(root):
    load(root)
    Image.fromarray(PIXELS[1, 1, 1]).save(root / "train/a/0.png")
    assert np.array_equal(load(root).train.images[0].permute(1, 2, 0), PIXELS[1, 1, 1])


def test_an_image_whose_size_and_time_of_change_are_the_old_ones_is_decoded_anew(root):
    load(root)
    image = root / "train/a/0.png"
    status = image.stat()
    image.write_bytes(bytes(status.st_size))
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "train/a/0.png" in error_of(root)


def test_a_user_without_a_home_has_a_cache_beside_the_images(root, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "~/.cache")  # as it stays where nothing tells the home
    assert is_as_drawn(load(root))
    assert ImageCache(root, "x").paths == [cache_of(root, "x")]


def test_an_added_or_removed_image_is_noticed(root):
    load(root)
    Image.fromarray(PIXELS[1, 1, 1]).save(root / "train/b/9.png")
    assert load(root).train.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    (root / "train/a/0.png").unlink()
    assert load(root).train.labels.tolist() == [0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_a_truncated_cache_is_made_anew(root, kept):
    load(root)
    whole = cache_of(root).read_bytes()
    cache_of(root).write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    assert is_as_drawn(load(root))
    assert len(cache_of(root).read_bytes()) == len(whole)


def test_a_cache_with_a_flipped_bit_is_made_anew(root):
    load(root)
    content = bytearray(cache_of(root).read_bytes())
    content[content.index(PIXELS[0, 0, 0].transpose(2, 0, 1).tobytes()) + 7] ^= 1
    cache_of(root).write_bytes(content)
    assert is_as_drawn(load(root))


def test_a_cache_of_pickles_is_not_opened(root, tmp_path):
    load(root)
    with np.load(cache_of(root)) as arrays:
        key = arrays["key"]
    np.savez(cache_of(root), key=key, train=np.array([Payload(tmp_path / "trace")]))
    assert is_as_drawn(load(root))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("images", [np.zeros((1, 3, 6, 8), np.uint8), np.zeros((6, 3, 6, 8)), np.zeros(6, np.uint8)])
def test_a_cache_that_is_not_of_these_images_is_made_anew(root, images):
    load(root)
    cache = ImageCache(root, "images-as-stored.npz")
    with np.load(cache_of(root)) as arrays:
        cache.write(str(arrays["key"]), {"train": images, "test": images})
    assert is_as_drawn(load(root))


def test_each_image_size_has_its_cache(root):
    load(root)
    load(root, image_size=4)
    mark(cache_of(root, "images-4.npz"))
    assert is_as_drawn(load(root))
    assert load(root, image_size=4).train.images.shape[-1] == 4


def test_nothing_but_the_cache_is_written(root):
    before = set(root.rglob("*"))
    load(root)
    assert set(root.rglob("*")) - before == {cache_of(root).parent, cache_of(root)}


def test_the_users_cache_serves_where_the_tree_cannot_be_written(root, tmp_path):
    cache_of(root).parent.write_text("a file in the way")
    load(root)
    (cache,) = (tmp_path / "user-cache/qra").rglob("*.npz")
    mark(cache)
    assert not is_as_drawn(load(root))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("4.jpg", b"nothing of the kind"),
        ("4.jpg", b""),
        ("4.ppm", b"P6\nx 4\n255\n"),
        ("4.png", b"\x89PNG\r\n\x1a\n" + bytes(99)),
    ],
)
def test_a_file_that_is_no_image_is_named(root, name, content):
    file = root / "test/b" / name
    file.write_bytes(content)
    assert f"{file} cannot be decoded as an image" in error_of(root)
    assert not cache_of(root).exists()


def test_a_truncated_image_is_named(root):
    file = root / "test/b/1.png"
    file.write_bytes(file.read_bytes()[:60])
    assert f"{file} cannot be decoded as an image" in error_of(root)


def test_an_image_of_another_size_is_named(root):
    file = root / "train/b/2.png"
    Image.new("RGB", (5, 7)).save(file)
    assert error_of(root) == f"{file} has 5 x 7 pixels, others have 8 x 6: set image_size to crop and scale them all"
    assert load(root, image_size=5).train.images.shape == (6, 3, 5, 5)


def test_an_absent_part_is_named(root):
    (root / "test").rename(root / "elsewhere")
    assert error_of(root).startswith(f"{root}/test does not exist: the images must lie in train/<class>/*")


@pytest.fixture
def for_testing(root):
    """The same tree without its training images."""
    (root / "train").rename(root / "elsewhere")
    return root


def test_a_folder_for_testing_alone_holds_no_training_images(for_testing):
    data = load(for_testing)
    assert data.train is None
    assert np.array_equal(data.test.images.permute(0, 2, 3, 1), PIXELS[1].reshape(6, 6, 8, 3))
    assert data.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.class_names == ("a", "b")


def test_a_folder_for_testing_alone_is_decoded_once(for_testing):
    whole = load(for_testing)
    mark(cache_of(for_testing))
    assert load(for_testing).hash != whole.hash


def test_training_images_that_are_added_are_found(for_testing):
    load(for_testing)
    (for_testing / "elsewhere").rename(for_testing / "train")
    assert is_as_drawn(load(for_testing))


def test_images_for_testing_alone_are_another_data_set(root):
    whole = load(root).hash
    (root / "train").rename(root / "elsewhere")
    assert load(root).hash != whole


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    assert f"{tmp_path}/train needs at least 2 class folders" in error_of(tmp_path)


def test_one_class_is_refused(root):
    (root / "train/b").rename(root / "b")
    assert f"{root}/train needs at least 2 class folders, but has ['a']" in error_of(root)


def test_a_class_without_images_is_named(root):
    (root / "train/c").mkdir()
    assert f"{root}/train/c contains no images" in error_of(root)


def test_other_classes_for_testing_are_refused(root):
    (root / "test/b").rename(root / "test/c")
    assert "train and test must have the same class folders, but only one has ['b', 'c']" in error_of(root)


def test_an_image_size_of_nothing_is_refused():
    with pytest.raises(ValueError, match="image_size is 0"):
        ImageFolderDataModule("data", image_size=0)


def test_the_home_directory_may_be_abbreviated():
    assert ImageFolderDataModule("~/images").root == Path.home() / "images"
