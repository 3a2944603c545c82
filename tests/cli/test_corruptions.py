"""Accuracy on corrupted images, laid out as CIFAR-10-C."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import CONFIGS, SMALL_DATA, qra

from qra import checkpoint
from qra.data import SyntheticDataModule

ONE = ["--evaluation.eps", "[0]"]
CALLBACK = ["--trainer.callbacks+", str(CONFIGS / "callback/corruptions.yaml"), "--trainer.callbacks.root", "c"]
THREE = ["--trainer.callbacks.severities", "[1, 3]", "--trainer.callbacks.file_severities", "3"]


@pytest.fixture
def files():
    """Two corruptions of the test images at three severities: none at all, and bright ones."""
    test = SyntheticDataModule(**SMALL_DATA).load().test
    images = test.images.permute(0, 2, 3, 1).numpy()
    Path("c").mkdir()
    np.save("c/nothing.npy", np.concatenate([images] * 3))
    np.save("c/bright.npy", np.concatenate([images, images // 2 + 127, np.full_like(images, 255)]))
    np.save("c/labels.npy", np.tile(test.labels.numpy(), 3))
    return images, test.labels.numpy()


def run_test(plain_run, *arguments):
    return qra("test", "--ckpt_path", plain_run / "best.ckpt", "--run", "here", *ONE, *CALLBACK, *THREE, *arguments)


def test_accuracy_by_corruption_and_severity_and_their_mean(plain_run, files):
    output, code = run_test(plain_run)
    assert code == 0, output
    result = json.loads(Path("here/result.json").read_text())
    shifts = {name: each for name, each in result["outcomes"].items() if each["role"] == "shift"}
    assert set(shifts) == {"shift_nothing_1", "shift_nothing_3", "shift_bright_1", "shift_bright_3"}
    images = {name: each["attack"]["data"] for name, each in shifts.items()}
    assert "" != images["shift_nothing_3"] != images["shift_bright_3"] != ""
    clean = result["outcomes"]["clean"]["accuracy"]
    assert shifts["shift_nothing_3"]["accuracy"] == shifts["shift_bright_1"]["accuracy"] == clean
    network = checkpoint.load(str(plain_run / "best.ckpt")).eval()
    label = int(network(torch.ones(1, *files[0].transpose(0, 3, 1, 2).shape[1:])).argmax())
    white = float((files[1] == label).mean())
    assert shifts["shift_bright_3"]["accuracy"] == pytest.approx(white)
    means = {"nothing": clean, "bright": (clean + white) / 2}
    assert result["corruptions"]["by_corruption"] == pytest.approx(means)
    assert result["corruptions"]["mean"] == pytest.approx(sum(means.values()) / 2)
    assert f"mean {sum(means.values()) / 2:.2%}" in output
    assert "worst" not in " ".join(result["outcomes"])


def test_a_balanced_part_is_the_same_for_all(plain_run, files):
    output, code = run_test(plain_run, "--trainer.callbacks.n", "10", "--trainer.callbacks.corruptions", "[bright]")
    assert code == 0, output
    with np.load("here/correct.npz", allow_pickle=False) as arrays:
        assert arrays["shift_bright_1.indices"].tolist() == arrays["shift_bright_3.indices"].tolist()
        assert len(set(files[1][arrays["shift_bright_1.indices"]])) == len(set(files[1]))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--trainer.callbacks.severities", "[6]"], "severity is 6: it must be in 1..3"),
        (["--trainer.callbacks.corruptions", "[fog]"], "corruption is 'fog': c has bright, nothing"),
        (["--trainer.callbacks.n", "41"], "n is 41, but c has 40 images per severity"),
        (["--trainer.callbacks.root", "nowhere"], "nowhere has no corrupted images"),
    ],
)
def test_what_cannot_be_tested_is_refused_before_anything_is_written(plain_run, files, arguments, reason):
    output, code = run_test(plain_run, *arguments)
    assert code == 2
    assert reason in output
    assert output.strip().count("\n") == 0
    assert not Path("here").exists()


def test_images_of_another_shape_are_refused(plain_run, files):
    for name in ("nothing", "bright"):
        np.save(f"c/{name}.npy", np.zeros((120, 8, 8, 3), np.uint8))
    output, code = run_test(plain_run)
    assert code == 2
    assert "c has (3, 8, 8) images" in output
