import re

import numpy as np
import pytest
from commands import qra
from PIL import Image


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


def test_doctor_exits_1_for_a_fault_and_says_all_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"cut short")
    output, code = qra("doctor", "--data", tmp_path)
    assert code == 1
    assert "FAULT" in output
    assert "its md5 is not c58f30108f718f92721af3b95e74349a" in output


def test_doctor_names_memory_disk_and_bf16():
    output, _ = qra("doctor")
    assert re.search(r"^ok +memory +[\d.]+ of [\d.]+ GiB free$", output, re.MULTILINE)
    assert re.search(r"^ok +disk here +[\d.]+ of [\d.]+ GiB free$", output, re.MULTILINE)
    assert "bf16" in output
