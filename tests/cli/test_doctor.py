import re

import numpy as np
import pytest
from commands import qra
from PIL import Image

from qra import doctor
from qra.data import StreamedDataModule
from tests.data.image_tree import make_tree, truncate


@pytest.fixture
def folder(tmp_path):
    for part in ("train", "test"):
        for level, name in enumerate(("cat", "dog")):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for number in range(600 if part == "train" else 2):
                pixels = np.full((4, 4, 3), 40 + 100 * level + number % 50, np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / part / name / f"{number}.png")
    return tmp_path / "images"


def test_doctor_lists_versions_devices_and_data(folder):
    output, code = qra("doctor", "--data", folder)
    assert code == 0, output
    assert "torch" in output
    assert "CUDA devices" in output
    assert "2 classes" in output


def test_doctor_says_what_to_do_without_data(tmp_path):
    output, code = qra("doctor", "--data", tmp_path / "nowhere")
    assert code == 0, "no data is no fault"
    assert "--data.download true" in output


def test_doctor_says_all_else_where_it_cannot_look_at_the_data():
    *others, last = doctor.findings(5000 * "x")
    assert len(others) > 5
    assert (last.good, last.found) == (False, "cannot be read")
    assert "File name too long" in last.remedy


def test_doctor_exits_1_for_a_fault_and_says_all_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"cut short")
    output, code = qra("doctor", "--data", tmp_path)
    assert code == 1
    assert "FAULT" in output
    assert "its md5 is not c58f30108f718f92721af3b95e74349a" in output


@pytest.fixture
def tree(tmp_path):
    """Images of all kinds and sizes, in folders train and val."""
    files = make_tree(tmp_path / "tree", {"train": 8, "val": 3}, sides=(20, 40))
    return tmp_path / "tree", files


@pytest.mark.parametrize("part", ["val", "test"])
def test_doctor_knows_trees_of_images_of_all_sizes(tree, part):
    root, _ = tree
    (root / "val").rename(root / part)
    output, code = qra("doctor", "--data", root)
    assert code == 0, output
    data = StreamedDataModule(str(root), test=part)
    assert f"24 + 9 images, 3 classes, sha256 {data.data_hash}" in output


def test_doctor_says_of_each_image_what_is_wrong_with_it(tree):
    root, files = tree
    truncate(files[0])
    files[-1].write_bytes(b"no image")
    output, code = qra("doctor", "--data", root)
    assert code == 1
    faults = [line for line in output.splitlines() if line.startswith("FAULT")]
    assert len(faults) == 2
    assert f"{files[0]} cannot be decoded" in faults[0]
    assert f"{files[-1]} cannot be decoded as an image (its content is not a known image format)" in faults[1]


def test_doctor_tells_pixels_that_the_hash_of_a_run_does_not_see(tree):
    """A hash of a run is over the middles of some images; that of all images is over every pixel."""
    root, files = tree
    before, _ = qra("doctor", "--data", root, "--full")
    image = Image.open(files[0]).convert("RGB")
    image.putpixel((0, 0), tuple(255 - value for value in image.getpixel((0, 0))))
    image.save(files[0], "PNG")
    after, _ = qra("doctor", "--data", root, "--full")
    hashes = [re.search("sha256 ([0-9a-f]{64})", output)[1] for output in (before, after)]
    assert hashes[0] != hashes[1]


def test_doctor_names_classes_that_only_one_part_has(tree):
    root, _ = tree
    (root / "val/class02").rename(root / "val/class03")
    output, code = qra("doctor", "--data", root)
    assert code == 1
    assert "train and test must have the same class folders, but only one has ['class02', 'class03']" in output


def test_doctor_knows_numpy_files(tmp_path):
    images, labels = np.zeros((6, 4, 4, 3), np.uint8), np.arange(6) % 3
    np.save(tmp_path / "v6_data.npy", images)
    np.save(tmp_path / "v6_labels.npy", labels)
    np.savez(tmp_path / "both.npz", images=images[:3], labels=labels[:3])
    np.save(tmp_path / "fog.npy", images.astype(np.float32))
    np.save(tmp_path / "labels.npy", labels)
    output, code = qra("doctor", "--data", tmp_path)
    assert code == 1
    said = {path.name: line for path in tmp_path.iterdir() for line in output.splitlines() if f"{path} " in line}
    assert "0 + 6 images, 3 classes" in said["v6_data.npy"]
    assert "0 + 3 images, 3 classes" in said["both.npz"]
    assert said["fog.npy"].startswith("FAULT")
    assert "its images are float32 of shape (6, 4, 4, 3): they must be uint8" in output
    alone, code = qra("doctor", "--data", tmp_path / "v6_data.npy")
    assert code == 0
    assert "0 + 6 images, 3 classes" in alone


def test_doctor_names_memory_disk_and_bf16():
    output, _ = qra("doctor")
    assert re.search(r"^ok +memory +[\d.]+ of [\d.]+ GiB free$", output, re.MULTILINE)
    assert re.search(r"^ok +disk here +[\d.]+ of [\d.]+ GiB free$", output, re.MULTILINE)
    assert "bf16" in output
