"""CIFAR-10 from a made-up archive: torchvision's checksums are set to those of the made-up files."""

import dataclasses
import hashlib
import io
import pickle
import tarfile

import numpy as np
import pytest
from hostile import Payload, refusal
from torchvision.datasets import CIFAR10, CIFAR100

from qra.data import CIFAR10DataModule, CIFAR100DataModule
from qra.data.cifar10 import CIFAR10_ARCHIVE, CIFAR100_ARCHIVE
from qra.data.recognize import data_sets

ABSENT = "file:///nonexistent/cifar-10-python.tar.gz"
NAMES = ["cat", "dog"]
N = 8  # images of one file
IMAGES = np.random.default_rng(0).integers(0, 256, (6, N, 3072), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 2, (6, N))


class OldArray:
    """Pickles as an array whose type is written as NumPy wrote it when the archive was made."""

    def __init__(self, array):
        self.array = array

    def __reduce__(self):
        return np.ndarray, (self.array.shape, OldType(), self.array.tobytes())


class OldType:
    def __reduce__(self):
        return np.dtype, ("u1", 0, 1)


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """An archive of 40 training and 8 test images, outside of the data directory."""
    names = [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]
    contents = {
        name: pickle.dumps({"data": OldArray(images), "labels": labels.tolist()}, protocol=2)
        for name, images, labels in zip(names, IMAGES, LABELS, strict=True)
    }
    contents["batches.meta"] = pickle.dumps({"label_names": NAMES})
    path = tmp_path / "elsewhere" / "cifar-10-python.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5(contents[name])] for name in names[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [[names[5], md5(contents[names[5]])]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(contents["batches.meta"])})
    made_up = dataclasses.replace(CIFAR10DataModule.archive, md5=md5(path.read_bytes()))
    monkeypatch.setattr(CIFAR10DataModule, "archive", made_up)
    return path


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def is_the_made_up_data(data):
    return (
        np.array_equal(data.train.images.reshape(5, N, 3072), IMAGES[:5])
        and np.array_equal(data.train.labels.reshape(5, N), LABELS[:5])
        and np.array_equal(data.test.images.reshape(N, 3072), IMAGES[5])
        and np.array_equal(data.test.labels, LABELS[5])
        and data.class_names == ("cat", "dog")
    )


def error_of(module):
    return refusal(module.load)


def names_all_alternatives(text, root):
    return all(
        hint in text for hint in (f"{root}/{CIFAR10_ARCHIVE.name}", "ImageFolderDataModule", "SyntheticDataModule")
    )


def test_an_archive_in_the_directory_is_read(archive, root):
    archive.rename(root / archive.name)
    data = CIFAR10DataModule(str(root)).load()
    assert is_the_made_up_data(data)
    assert data.test.images.shape == (N, 3, 32, 32)
    assert data.test.images.is_contiguous()


def test_an_unpacked_archive_is_enough(archive, root):
    with tarfile.open(archive) as tar:
        tar.extractall(root, filter="data")
    assert is_the_made_up_data(CIFAR10DataModule(str(root)).load())


def test_a_process_that_unpacks_what_another_has_unpacked_meanwhile_uses_that(archive, root):
    for _ in range(2):
        CIFAR10DataModule.archive._unpack(archive, root)
    assert is_the_made_up_data(CIFAR10DataModule(str(root)).load())
    assert [path.name for path in root.iterdir()] == ["cifar-10-batches-py"]


def test_the_next_mirror_is_tried_when_one_fails(archive, root):
    module = CIFAR10DataModule(str(root), download=True, mirrors=["no address", ABSENT, archive.as_uri()])
    assert is_the_made_up_data(module.load())


def test_the_directory_is_made_for_a_download(archive, tmp_path):
    module = CIFAR10DataModule(str(tmp_path / "new/data"), download=True, mirrors=[archive.as_uri()])
    assert is_the_made_up_data(module.load())


def test_absent_data_is_an_error_that_names_the_alternatives(root):
    text = error_of(CIFAR10DataModule(str(root)))
    assert names_all_alternatives(text, root)
    assert "--data.download true" in text


def test_nothing_is_downloaded_unasked(archive, root):
    error_of(CIFAR10DataModule(str(root), mirrors=[archive.as_uri()]))
    assert not list(root.iterdir())


def test_mirrors_that_fail_are_all_named_and_leave_nothing_behind(archive, root):
    archive.write_bytes(b"something else")
    text = error_of(CIFAR10DataModule(str(root), download=True, mirrors=[ABSENT, archive.as_uri()]))
    assert ABSENT in text
    assert f"{archive.as_uri()}: wrong md5" in text
    assert names_all_alternatives(text, root)
    assert not list(root.iterdir())


def test_a_damaged_archive_is_named(root):
    (root / CIFAR10_ARCHIVE.name).write_bytes(b"half of it")
    assert f"{root}/{CIFAR10_ARCHIVE.name} is damaged" in error_of(
        CIFAR10DataModule(str(root), download=True, mirrors=[])
    )


def test_a_pickle_of_another_md5_is_never_opened(archive, root, tmp_path):
    with tarfile.open(archive) as tar:
        tar.extractall(root, filter="data")
    trace = tmp_path / "trace"
    for name in ("data_batch_3", "test_batch", "batches.meta"):
        file = root / "cifar-10-batches-py" / name
        sound = file.read_bytes()
        file.write_bytes(pickle.dumps(Payload(trace)))
        assert "wrong md5" in error_of(CIFAR10DataModule(str(root)))
        assert not trace.exists()
        file.write_bytes(sound)


def test_the_checksum_is_that_of_the_original_archive():
    assert CIFAR10.tgz_md5 == CIFAR10_ARCHIVE.md5
    assert CIFAR100.tgz_md5 == CIFAR100_ARCHIVE.md5


def test_cifar_100_is_read_like_cifar_10(tmp_path, monkeypatch):
    folder = tmp_path / CIFAR100_ARCHIVE.folder
    folder.mkdir()
    contents = {
        name: pickle.dumps({"data": OldArray(images), "fine_labels": [2, 0, 1] * 2 + [1, 1]}, protocol=2)
        for name, images in (("train", IMAGES[0]), ("test", IMAGES[1]))
    }
    contents["meta"] = pickle.dumps({"fine_label_names": ["ant", "bee", "cod"]})
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5(contents["train"])]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5(contents["test"])]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": md5(contents["meta"])})
    module = CIFAR100DataModule(str(tmp_path))
    data = module.load()
    assert np.array_equal(data.train.images.reshape(N, 3072), IMAGES[0])
    assert np.array_equal(data.test.images.reshape(N, 3072), IMAGES[1])
    assert data.class_names == ("ant", "bee", "cod")
    (folder / "train").write_bytes(b"something else")
    assert "wrong md5" in error_of(module)


@pytest.mark.parametrize("kind", [CIFAR10DataModule, CIFAR100DataModule])
def test_an_archive_is_known_by_its_name(root, kind):
    (root / kind.archive.name).touch()
    assert [type(data) for data in data_sets(root).values()] == [kind]


def test_only_cifar_10_leaves_normalization_to_networks(tmp_path):
    assert CIFAR10DataModule(str(tmp_path)).normalization() is None
    assert CIFAR100DataModule.normalization is not CIFAR10DataModule.normalization
