"""Every command on the device, from the command line to the files that it leaves."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import CONFIGS, crashed, pipeline, teacher
from device import DEVICE, FIT, ON_DEVICE, SMALL, result, run
from same import end_of, same

import qra as package
from qra import environment

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:.*not robust")]

AUTOATTACK = [
    *("--trainer.callbacks+", CONFIGS / "callback/autoattack.yaml", "--trainer.callbacks.attack.steps", 5),
    *("--trainer.callbacks.attack.queries", 50, "--trainer.callbacks.n", 40, "--trainer.callbacks.chunk_size", 20),
]
REPEATABLE = ["--trainer.deterministic", "true"]
MASKING = [
    *("--trainer.callbacks+", CONFIGS / "callback/masking.yaml", "--trainer.callbacks.n", 40),
    *("--trainer.callbacks.settings.steps", 5, "--trainer.callbacks.settings.queries", 20),
]


@pytest.fixture(scope="module")
def float_run(tmp_path_factory):
    """A finished adversarial training of a float network: its directory."""
    directory = tmp_path_factory.mktemp("float") / "run"
    run("fit", *pipeline("float-at"), *FIT, "--run", directory)
    return directory


@pytest.fixture(scope="module")
def quantized_run(float_run, tmp_path_factory):
    """A finished adversarial training through quantization: its directory."""
    directory = tmp_path_factory.mktemp("quantized") / "run"
    run("fit", *pipeline("qat-at"), *FIT, *start(float_run), "--run", directory)
    return directory


def start(directory):
    return ["--model.init_args.init_from", directory / "best.ckpt"]


def logits(checkpoint):
    """What a network on the CPU says of a few images; finite."""
    found = package.load(checkpoint)(torch.rand(4, 3, 32, 32))
    assert found.isfinite().all()
    return found


def test_a_run_says_which_device_it_was_on(float_run):
    sheet = json.loads((float_run / "run.json").read_text())
    assert sheet["device"] == environment.sheet(torch.device(DEVICE))["device"]
    logits(float_run / "best.ckpt")


def test_training_in_bfloat16_leaves_a_float32_network():
    run("fit", *pipeline("float-at"), *FIT, "--trainer.precision", "bf16-mixed", "--run", "here")
    assert logits("here/best.ckpt").dtype == torch.float32


def test_adversarial_training_through_quantization(quantized_run):
    logits(quantized_run / "best.ckpt")
    assert package.load(quantized_run / "best.ckpt").relu1.bit_width == 4


@pytest.mark.parametrize("scheme", ["lsq", "uniform", "pact-sawb"])
def test_training_through_other_quantizers(float_run, scheme):
    quantizers = ["--model.init_args.scheme", CONFIGS / f"quant/{scheme}.yaml"]
    run("fit", *pipeline("qat-plain"), *FIT, *start(float_run), *quantizers, "--run", "here")
    logits("here/best.ckpt")


@pytest.mark.parametrize("transfer", ["rslad", "adaad", "lwf"])
def test_a_quantized_student_learns_from_a_teacher(float_run, transfer):
    lessons = ["--model.init_args.transfer", CONFIGS / f"transfer/{transfer}.yaml", *teacher()]
    run("fit", *pipeline("qat-transfer"), *FIT, *lessons, *start(float_run), "--run", "here")
    logits("here/best.ckpt")


@pytest.mark.parametrize("name", ["ptq-pwlq", "ptq-uniform"])
def test_training_ends_with_quantization_and_autoattack_and_the_checkpoint_tests_the_same(name):
    how = [*AUTOATTACK, *REPEATABLE]
    run("fit", *pipeline(name), *FIT, *how, "--run", "here")
    at_end = result("here")["outcomes"]
    run("test", "--ckpt_path", "here/calibrated.ckpt", *pipeline("float-plain"), *SMALL, *how, "--run", "again")
    again = result("again")["outcomes"]
    assert at_end["autoattack_8"]["n"] == 40
    assert {name: again[name]["accuracy"] for name in at_end} == {
        name: outcome["accuracy"] for name, outcome in at_end.items()
    }


def test_a_float_network_is_quantized_at_the_start_of_a_test(float_run):
    run("test", *pipeline("ptq-pwlq"), *SMALL, "--ckpt_path", float_run / "best.ckpt", "--run", "here")
    assert {"clean", "clean_uniform5", "pgd5_8"} <= result("here")["outcomes"].keys()


def test_figures_are_made_in_float32_whatever_the_precision_of_training(quantized_run):
    test = ["test", "--ckpt_path", quantized_run / "best.ckpt", *pipeline("qat-at"), *SMALL, *AUTOATTACK, *REPEATABLE]
    for precision in ("32-true", "bf16-mixed"):
        run(*test, "--trainer.precision", precision, "--run", precision)
    assert same_outcomes("32-true", "bf16-mixed")


def same_outcomes(first, second):
    """Whether two runs have got the same examples correct."""
    with (
        np.load(Path(first, "correct.npz"), allow_pickle=False) as one,
        np.load(Path(second, "correct.npz"), allow_pickle=False) as other,
    ):
        return set(one) == set(other) and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", ["float", "quantized"])
def test_all_attacks_on_one_network(kind, request):
    directory = request.getfixturevalue(f"{kind}_run")
    gradients = ["--evaluation.gradients", "[ste, ste_soft, hard, square]", "--evaluation.queries", 20]
    checkpoint = ["--config", directory / "config.yaml", "--ckpt_path", directory / "best.ckpt"]
    run("test", *checkpoint, *SMALL, *gradients, *AUTOATTACK, *MASKING, "--run", "here")
    found = result("here")
    accuracy = {name: outcome["accuracy"] for name, outcome in found["outcomes"].items()}
    assert accuracy["worst_8"] <= min(accuracy["pgd5_8"], accuracy["pgd5_8_hard"], accuracy["square_8"])
    assert accuracy["autoattack_8"] <= accuracy["autoattack_8.apgd_ce"]
    assert found["masking"]["n"] == 40
    assert found["masking"]["verdict"] in ("sound", "suspect")


def test_adversarial_images_are_written(quantized_run):
    run("predict", "--ckpt_path", quantized_run / "best.ckpt", "--run", "here", "--examples.n", 12)
    with np.load("here/adversarial.npz", allow_pickle=False) as arrays:
        distance = np.abs(arrays["x_adv"] - arrays["x"]).max()
    assert 0 < distance <= 8 / 255 + 1e-6


@pytest.mark.parametrize("name", ["float-at", "qat-at"])
def test_a_deterministic_run_that_crashed_ends_with_the_weights_of_one_that_did_not(name):
    fit = ["fit", *pipeline(name), *FIT, "--trainer.max_epochs", 3, *REPEATABLE]
    fit += ["--model.init_args.attack.init_args.steps", 2]
    crash = ["--trainer.callbacks+", "crash.CrashAfter", "--trainer.callbacks.epochs", 1]
    crashed(*fit, *crash, "--run", "crashed", *ON_DEVICE)
    run(*fit, "--run", "crashed", "--ckpt_path", "last")
    run(*fit, "--run", "whole")
    assert end_of("whole")["epoch"] == 2
    assert same(end_of("crashed"), end_of("whole"))


@pytest.fixture
def _distributed():
    """Leave neither a process group nor its environment behind."""
    before = dict(os.environ)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("_distributed")
@pytest.mark.parametrize("name", ["float-at", "qat-at"])
def test_the_config_for_several_devices_trains_and_tests_on_one(name):
    devices = ["--config", CONFIGS / f"trainer/ddp{'' if DEVICE == 'cuda' else '-cpu'}.yaml"]
    one = ["--trainer.devices", 1]
    run("fit", *pipeline(name), *devices, *FIT, "--run", "here", device=one)
    run("test", "--config", "here/config.yaml", "--ckpt_path", "here/best.ckpt", *SMALL, *AUTOATTACK, device=one)
    assert Path("here/last.ckpt").exists()
    assert result("here")["outcomes"]["autoattack_8"]["n"] == 40
