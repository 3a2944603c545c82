"""Images without a training set: tested, attacked and compared on, and refused where training images are needed."""

import json
import shutil
from pathlib import Path

import pytest
from commands import CONFIGS, qra, refused
from PIL import Image

from qra.data import SyntheticDataModule
from qra.data.synthetic import class_name

FEW = ["--evaluation.n", "10", "--evaluation.steps", "1", "--evaluation.eps", "[8/255]"]
AUTOATTACK = ["--trainer.callbacks+", CONFIGS / "callback/autoattack.yaml", "--trainer.callbacks.n", "4",
              "--trainer.callbacks.attack.steps", "2", "--trainer.callbacks.attack.queries", "5"]  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The options that name a folder with two test images of each class."""
    root = tmp_path_factory.mktemp("images")
    data = SyntheticDataModule(test_size=20).load()
    for number, (image, label) in enumerate(zip(data.test.images, data.test.labels, strict=True)):
        folder = root / "test" / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    return ["--data", str(CONFIGS / "data/image_folder.yaml"), "--data.init_args.root", str(root)]


def test_they_are_tested_attacked_and_written(plain_run, images):
    output, code = qra("test", "--ckpt_path", plain_run / "best.ckpt", *images, *FEW, *AUTOATTACK, "--run", "here")
    assert code == 0, output
    outcomes = json.loads(Path("here/result.json").read_text())["outcomes"]
    assert {name: outcomes[name]["n"] for name in ("clean", "pgd1_8", "autoattack_8")} == {
        "clean": 20, "pgd1_8": 10, "autoattack_8": 4
    }  # fmt: skip


def test_a_class_with_another_number_than_in_training_is_refused(plain_run, images, tmp_path):
    trained = [class_name(number) for number in range(10)]
    root = shutil.copytree(images[-1], tmp_path / "others")
    for number, folder in enumerate(sorted((root / "test").iterdir())):
        folder.rename(folder.with_name(trained[number]))
    shutil.rmtree(root / "test" / sorted(trained)[0])
    others = [*images[:-1], str(root)]
    first = next(name for number, name in enumerate(sorted(trained)[1:]) if number != trained.index(name))
    reason = refused("test", "--ckpt_path", plain_run / "best.ckpt", *others, *FEW, "--run", "here")
    assert f"best.ckpt: was trained with the class {first!r} as number {trained.index(first)}, but in the" in reason
    assert not Path("here").exists() or not list(Path("here").iterdir())


def test_adversarial_images_are_made_of_some_of_the_classes(plain_run, images, tmp_path):
    few = ["--examples.n", "5", "--examples.attack.init_args.steps", "1"]
    root = shutil.copytree(images[-1], tmp_path / "some")
    shutil.rmtree(root / "test/class0")
    some = [*images[:-1], str(root)]
    output, code = qra("predict", "--ckpt_path", plain_run / "best.ckpt", *some, *few, "--run", "here")
    assert code == 0, output
    assert "the network has 10 classes, the data 9: its first is 'class1'" in output
    assert "5 adversarial examples written to here/adversarial.npz" in output


def test_networks_are_compared_on_them(plain_run, images):
    checkpoints = [plain_run / "best.ckpt", plain_run / "last.ckpt"]
    output, code = qra("compare", "--transfer", *checkpoints, *images, "--n", "6", "--steps", "1", "--out", "here")
    assert code == 0, output
    assert json.loads(Path("here/transfer.json").read_text())["n"] == 6


@pytest.mark.parametrize(
    "command",
    [
        ["fit", "--config", CONFIGS / "pipeline/float-plain.yaml", "--trainer.max_epochs", "1"],
        ["validate", "--ckpt_path", "CHECKPOINT"],
        ["test", "--ckpt_path", "CHECKPOINT", "--trainer.callbacks+", CONFIGS / "callback/ptq-uniform.yaml"],
    ],
    ids=["fit", "validate", "calibrate"],
)
def test_what_needs_training_images_is_refused_before_anything_is_written(command, plain_run, images):
    words = [plain_run / "best.ckpt" if word == "CHECKPOINT" else word for word in command]
    reason = refused(*words, *images, "--run", "here")
    assert reason == (
        "the data has no training images: it can be used for tests, but to train, validate or calibrate give a data "
        "set that has some (images in folders: train/<class>/*)"
    )
    assert not Path("here").exists() or not list(Path("here").iterdir())
