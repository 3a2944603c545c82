"""Quantization from the command line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from commands import CONFIGS, LOGGED, NETWORK, TINY, TINY_FIT, pipeline, qra, refused, trained
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import qra as package
from qra.rebuild import rebuild_scheme

FIT = [*TINY_FIT, *NETWORK, "--trainer.max_epochs", 1, "--model.init_args.val_attack.steps", 1]
TEST = [*TINY, *NETWORK]
BITS = "--trainer.callbacks.scheme.weight_bit_width"
SCHEME = "--model.init_args.scheme"


@pytest.fixture(scope="module")
def float_checkpoint(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("float"), *FIT)


@pytest.fixture(scope="module")
def quantized_run(float_checkpoint, tmp_path_factory):
    """A finished run of training through quantization: its directory."""
    run = tmp_path_factory.mktemp("quantized") / "run"
    start = ["--model.init_args.init_from", float_checkpoint]
    output, code = qra("fit", *pipeline("qat-plain"), *FIT, *start, f"{SCHEME}.weight_bit_width", 3, "--run", run)
    assert code == 0, output
    return run


def outcomes(run):
    return json.loads(Path(run, "result.json").read_text())["outcomes"]


def test_bits_are_set_on_the_command_line_and_the_checkpoint_rebuilds_itself(quantized_run):
    run = Path(shutil.copytree(quantized_run, "run"))
    output, code = qra("test", "--ckpt_path", run / "best.ckpt")
    assert code == 0, output
    network = package.load(run / "best.ckpt")
    assert network.stages[0][0].conv1.weight_quantizer.bit_width == 3
    assert network.relu1.bit_width == 4
    data = package.data.SyntheticDataModule(
        train_size=80, test_size=40, val_size=20, batch_size=20, calibration_size=20
    )
    data.setup()
    with torch.no_grad():
        correct = network(data.data.test.images.float() / 255).argmax(1) == data.data.test.labels
    assert outcomes(run)["clean"]["accuracy"] == pytest.approx(correct.float().mean().item())


@pytest.mark.parametrize("start", ["random", "float", "quantized"])
def test_adversarial_training_starts_from_any_network(float_checkpoint, quantized_run, start):
    source = {"random": "null", "float": float_checkpoint, "quantized": quantized_run / "best.ckpt"}[start]
    attack = ["--model.init_args.attack.init_args.steps", 1]
    output, code = qra("fit", *pipeline("qat-at"), *FIT, *attack, "--model.init_args.init_from", source)
    assert code == 0, output
    assert package.load("runs/qat-at/best.ckpt").relu1.bit_width == 4


SCHEMES = sorted((CONFIGS / "quant").glob("*.yaml"))
OF_EACH_KIND = ("lsq-plus", "uniform", "weights-only")
"""One that learns its steps, one that learns nothing, and one of weights alone; ``pact`` is that of the pipelines."""


@pytest.mark.parametrize(
    "name",
    [path.stem if path.stem in OF_EACH_KIND else pytest.param(path.stem, marks=pytest.mark.slow) for path in SCHEMES],
)
def test_every_scheme_trains(name):
    output, code = qra("fit", *pipeline("qat-plain"), *FIT, SCHEME, CONFIGS / f"quant/{name}.yaml", "--run", "here")
    assert code == 0, output
    assert package.load("here/best.ckpt")(torch.rand(2, 3, 32, 32)).isfinite().all()


@pytest.mark.parametrize("path", SCHEMES, ids=lambda path: path.stem)
@pytest.mark.parametrize("before", ["pact", pytest.param("uniform", marks=pytest.mark.slow)])
def test_nothing_of_a_scheme_that_is_replaced_stays(path, before):
    printed, code = qra(
        "fit", *pipeline("qat-plain"), SCHEME, CONFIGS / f"quant/{before}.yaml", SCHEME, path, "--print_config"
    )
    assert code == 0, printed
    found = yaml.safe_load(printed)["model"]["init_args"]["scheme"]
    written = yaml.safe_load(path.read_text())
    expected = rebuild_scheme({"class_path": "qra.quant.QuantScheme", "init_args": written})
    assert rebuild_scheme({"class_path": "qra.quant.QuantScheme", "init_args": found}) == expected


@pytest.mark.parametrize("name", ["ptq-pwlq", pytest.param("ptq-uniform", marks=pytest.mark.slow)])
def test_a_float_checkpoint_is_quantized_and_tests_again_to_the_same_figures(float_checkpoint, name):
    bits = [BITS, 3]
    output, code = qra("test", *pipeline(name), *TEST, *bits, "--ckpt_path", float_checkpoint, "--run", "first")
    assert code == 0, output
    output, code = qra("test", *pipeline(name), *TEST, *bits, "--ckpt_path", "first/calibrated.ckpt", "--run", "second")
    assert code == 0, output
    beside = {"clean_uniform4"} if name == "ptq-pwlq" else set()  # needs the float network
    assert outcomes("first").keys() - outcomes("second").keys() == beside
    assert outcomes("second").items() <= outcomes("first").items()
    assert package.load("first/calibrated.ckpt").conv1.weight_quantizer.bit_width == 3


def test_only_quantizers_ask_for_calibration_images():
    too_many = ["--data.calibration_size", 61, "--trainer.max_steps", 1, "--model.val_attack", "null"]
    told = refused("fit", *pipeline("qat-plain"), *FIT, *too_many, "--model.init_from", "null", "--run", "quantized")
    assert told.startswith("calibration_size is 61, but only 60 of 80 training images are left")
    output, code = qra("fit", *pipeline("float-plain"), *FIT, *too_many, "--run", "float")
    assert code == 0, output


def test_a_training_run_ends_with_calibration():
    output, code = qra("fit", *pipeline("ptq-pwlq"), *FIT)
    assert code == 0, output
    output, code = qra("test", "--ckpt_path", "runs/ptq-pwlq/calibrated.ckpt")
    assert code == 0, output


GRADIENTS = ["--evaluation.gradients", "[ste, ste_soft, hard, surrogate]", "--evaluation.eps", "[8/255]"]


def test_each_source_of_gradients_is_an_outcome_and_the_worst_of_them_another(quantized_run, float_checkpoint):
    gradients = [*GRADIENTS, "--evaluation.surrogate", float_checkpoint]
    output, code = qra("test", "--ckpt_path", quantized_run / "best.ckpt", "--run", "here", *gradients)
    assert code == 0, output
    found = outcomes("here")
    members = ["pgd2_8", "pgd2_8_ste_soft", "pgd2_8_hard", "pgd2_8_surrogate"]
    assert list(found) == ["clean", *members, "worst_8"]
    assert found["worst_8"]["members"] == members
    assert found["worst_8"]["accuracy"] <= min(found[name]["accuracy"] for name in members)
    assert found["pgd2_8_surrogate"]["source"]["path"] == str(float_checkpoint)


def test_square_is_an_outcome_of_its_own_and_hidden_gradients_are_reported(quantized_run):
    gradients = ["--evaluation.gradients", "[square, ste]", "--evaluation.eps", "[8/255]", "--evaluation.queries", 5]
    check = ["--trainer.callbacks+", CONFIGS / "callback/masking.yaml", "--trainer.callbacks.n", 20]
    fast = {"steps": 4, "restarts": 1, "queries": 2}
    check += [word for name, value in fast.items() for word in (f"--trainer.callbacks.settings.{name}", value)]
    output, code = qra("test", "--ckpt_path", quantized_run / "best.ckpt", "--run", "here", *LOGGED, *gradients, *check)
    assert code == 0, output
    found = outcomes("here")
    assert list(found) == ["clean", "pgd2_8", "square_8", "worst_8"]
    assert found["worst_8"]["members"] == ["pgd2_8", "square_8"]
    assert found["worst_8"]["accuracy"] <= min(found["square_8"]["accuracy"], found["pgd2_8"]["accuracy"])
    masking = json.loads(Path("here/result.json").read_text())["masking"]
    assert masking["n"] == 20
    assert f"Verdict: {masking['verdict']}" in output
    assert all(reason.split()[0] in output for reason in masking["reasons"])
    assert Path("here/masking.png").read_bytes()[:4] == b"\x89PNG"
    assert "test/masking" in EventAccumulator("here/tensorboard").Reload().Tags()["images"]
    info = json.loads(Path("here/robustbench.json").read_text())
    assert info["clean_acc"] == f"{100 * found['clean']['accuracy']:.2f}"
    assert info["qra"]["weight_bit_width"] == 3
    assert info["qra"]["doubt"]["state"] == masking["verdict"]
    assert info["qra"]["robust"]["outcome"] == "worst_8"


def test_gradient_modes_of_a_float_network_agree(float_checkpoint):
    gradients = ["--evaluation.gradients", "[hard, ste]", "--evaluation.eps", "[8/255]"]
    output, code = qra(
        "test", *pipeline("float-plain"), *TEST, "--ckpt_path", float_checkpoint, "--run", "here", *gradients
    )
    assert code == 0, output
    found = outcomes("here")
    assert found["pgd2_8_hard"]["accuracy"] == found["pgd2_8"]["accuracy"] == found["worst_8"]["accuracy"]


def test_a_requantized_network_is_a_checkpoint_to_go_on_from(quantized_run, float_checkpoint):
    other_bits = ["--trainer.callbacks+", CONFIGS / "callback/requantize.yaml", BITS, 2]
    output, code = qra("test", "--ckpt_path", quantized_run / "best.ckpt", "--run", "other", *other_bits)
    assert code == 0, output
    network = package.load("other/calibrated.ckpt")
    assert network.stages[0][0].conv1.weight_quantizer.bit_width == 2
    told = refused("fit", *pipeline("float-plain"), *FIT, "--model.init_from", "other/calibrated.ckpt", "--run", "new")
    assert told.endswith("the checkpoint is quantized, this network is float: give it a model.scheme")
    assert "weights_key" not in told


def test_a_checkpoint_of_other_bits_is_refused(quantized_run):
    arguments = ["--ckpt_path", quantized_run / "best.ckpt", f"{SCHEME}.weight_bit_width", 2]
    assert "weight_bit_width was 3 and is 2" in refused("test", *arguments)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--evaluation.gradients", "[]"], "name at least one"),
        (["--evaluation.gradients", "[ste, ste]"], "each once"),
        (["--evaluation.gradients", "[soft]"], "gradients"),
        (["--evaluation.gradients", "[surrogate]"], "go together"),
        (["--evaluation.surrogate", "none.ckpt"], "go together"),
        ([*GRADIENTS, "--evaluation.surrogate", "none.ckpt"], "none.ckpt: there is no such checkpoint"),
        ([f"{SCHEME}.weight_bit_width", 0], "weight_bit_width: bit width 0"),
        ([f"{SCHEME}.act_bit_width", 1], "act_bit_width: bit width 1"),
        ([f"{SCHEME}.weight_bit_width", 33], "weight_bit_width: bit width 33"),
        ([f"{SCHEME}.activation", "qra.quant.PWLQ"], "PWLQ"),
        ([f"{SCHEME}.activation.alpha", 0], "alpha is 0.0: it must be above 0 and finite"),
        ([f"{SCHEME}.activation.alpha", ".nan"], "alpha is nan"),
        ([SCHEME, "configs/quant/none.yaml"], "there is no config file configs/quant/none.yaml"),
        (
            ["--model.init_args.network", "torchvision.models.mobilenet_v2"],
            "gets its input from BatchNorm2d features.1.conv.2",
        ),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_a_wrong_scheme_is_named(arguments, reason):
    assert reason in refused("fit", *pipeline("qat-plain"), *TINY_FIT, *arguments)
    assert not list(Path().glob("**/*.ckpt"))
