"""Checkpoints that say what they are, options that win, numbers that are of something, endings that lead on."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from commands import CONFIGS, NETWORK, SMALL_DATA, TINY, TINY_FIT, pipeline, qra, refused

PUBLISHED = "checkpoints/pact-w4a4-at"
TEST = [word for word in TINY if word not in ("--data", str(CONFIGS / "data/synthetic.yaml"))]
IMAGES = ["--data", "data/synthetic", *TEST]


def result(run):
    return json.loads(Path(run, "result.json").read_text())


def test_a_published_checkpoint_asks_for_images_only():
    output, code = qra("test", "--ckpt_path", PUBLISHED, *IMAGES)
    assert code == 0, output
    found = result("runs/checkpoints-pact-w4a4-at")
    assert found["scheme"]["init_args"]["weight_bit_width"] == 4
    assert found["untrained"] is False
    assert "partial" not in found


def test_a_checkpoint_that_names_what_is_not_trusted_is_not_built():
    state = {"state_dict": {}, "qra": {"network": {"class_path": "os.system", "init_args": {"command": "touch hit"}}}}
    torch.save(state, "foreign.ckpt")
    assert refused("test", "--ckpt_path", "foreign.ckpt", *IMAGES).startswith("foreign.ckpt: ")
    assert not Path("hit").exists()


def test_options_before_a_config_win_over_it(plain_run):
    options = ["--ckpt_path", plain_run / "best.ckpt", "--run", "here", "--data.test_size", 30, "--evaluation.n", 10]
    output, code = qra("test", *options, "--config", plain_run / "config.yaml")
    assert code == 0, output
    assert not (plain_run / "result.json").exists()
    found = result("here")
    assert found["checkpoint"]["path"] == str(plain_run / "best.ckpt")
    assert found["outcomes"]["clean"]["n"] == 30


def test_a_config_beside_others_still_takes_the_model_of_the_checkpoint(plain_run):
    Path("hardware.yaml").write_text("trainer: {accelerator: cpu, devices: 1}\n")
    arguments = ["--ckpt_path", plain_run / "best.ckpt", "--config", "hardware.yaml", "--run", "here"]
    output, code = qra("test", *arguments)
    assert code == 0, output


def test_random_weights_are_measured_only_when_asked_for_and_called_so():
    output, code = qra("test", *pipeline("float-plain"), *TINY, *NETWORK, "--untrained", "true", "--run", "here")
    assert code == 0, output
    assert "untrained: the weights are random" in output
    assert result("here")["untrained"] is True


def test_a_partial_test_is_called_so(plain_run):
    limit = ["--trainer.limit_test_batches", 1, "--evaluation.n", 40]
    output, code = qra("test", "--ckpt_path", plain_run / "best.ckpt", "--run", "here", *limit)
    assert code == 0, output
    assert "partial test: the first 20 of 40 test images" in output
    assert result("here")["partial"] == {"images": 20, "of": 40}


def test_where_the_training_of_a_checkpoint_started_does_not_matter_to_its_test(plain_run):
    run = shutil.copytree(plain_run, "run")
    config = yaml.safe_load(Path(run, "config.yaml").read_text())
    config["model"]["init_args"]["init_from"] = "gone.ckpt"
    Path(run, "config.yaml").write_text(yaml.safe_dump(config))
    output, code = qra("test", "--ckpt_path", f"{run}/best.ckpt")
    assert code == 0, output


def test_a_name_in_the_working_directory_wins_over_a_shipped_one():
    Path("pipeline").mkdir()
    shipped = (CONFIGS / "pipeline/float-plain.yaml").read_text().replace("max_epochs: 12", "max_epochs: 7")
    Path("pipeline/float-plain.yaml").write_text(shipped.replace("../", f"{CONFIGS}/"))
    output, code = qra("fit", "--config", "pipeline/float-plain", "--print_config")
    assert code == 0, output
    assert "max_epochs: 7" in output


def test_a_directory_named_like_a_config_stays_a_directory():
    output, code = qra("fit", *pipeline("float-plain"), "--data.root", "data/cifar10", "--print_config")
    assert code == 0, output
    assert "root: data/cifar10" in output


@pytest.fixture
def images():
    """A tree of images in the working directory."""
    from PIL import Image

    for part, number in (("train", 40), ("test", 10)):
        for level, name in enumerate(("cat", "dog")):
            Path("images", part, name).mkdir(parents=True)
            for each in range(number):
                color = (40 + 100 * level + each, 9, 99)
                Image.new("RGB", (32, 32), color).save(Path("images", part, name, f"{each}.png"))


@pytest.mark.usefixtures("images")
def test_a_run_on_a_relative_folder_of_images_is_tested_from_another_directory():
    small = [f"--data.{key}={value}" for key, value in SMALL_DATA.items() if not key.startswith(("train", "test"))]
    data = ["--data", "data/image_folder", "--data.root", "images", *small, *NETWORK, "--model.network.num_classes", 2]
    words = TINY_FIT[len(TINY) :]
    output, code = qra("fit", *pipeline("float-plain"), *data, *words, "--trainer.max_epochs", 1, "--run", "run")
    assert code == 0, output
    run = Path("run").absolute()
    Path("elsewhere").mkdir()
    os.chdir("elsewhere")
    output, code = qra("test", "--ckpt_path", run / "best.ckpt", "--evaluation.n", 4, "--evaluation.steps", 1)
    assert code == 0, output
    assert json.loads((run / "result.json").read_text())["outcomes"]["clean"]["n"] == 20


def test_a_fit_ends_with_its_best_epoch_the_place_and_the_next_command():
    output, code = qra("fit", *pipeline("float-plain"), *TINY_FIT, *NETWORK, "--run", "here")
    assert code == 0, output
    best, place, following = output.strip().splitlines()[-3:]
    epoch = torch.load("here/best.ckpt", weights_only=True)["epoch"]
    assert best.startswith(f"best validation epoch: {epoch + 1} of 2, val/clean_acc ")
    assert "val/robust_acc" in best
    assert place == "all files are in here"
    assert following == "next: qra test --ckpt_path here/best.ckpt"
