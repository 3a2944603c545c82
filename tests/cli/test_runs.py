"""What the commands do when all is well."""

import json
import shutil
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import CONFIGS, LOGGED, NETWORK, TINY, TINY_FIT, pipeline, qra, refused, teacher
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import qra as package
from qra import checkpoint
from qra.evaluation.outcome import read_correct

pytestmark = pytest.mark.filterwarnings("ignore:.*not robust")

FIT = [*TINY_FIT, *NETWORK]
PIPELINES = sorted(path.stem for path in (CONFIGS / "pipeline").glob("*.yaml"))


def quick(name):
    """Attack in training with one step, where a pipeline does."""
    place = "--model.init_args.transfer.init_args" if name.endswith("transfer") else "--model.init_args"
    attacks = not name.endswith(("plain", "fgsm-rs")) and not name.startswith(("imagenet", "ptq"))
    return [f"{place}.attack.init_args.steps", 1] if attacks else []


ELSEWHERE = ("float-plain", "qat-plain", "quickstart-plain")
"""Trained and tested by ``tested``, in test_quantized_runs.py and in test_wheel.py."""
LONG = ("qat-at", "qat-transfer", "quickstart-at")


def marked(names):
    def is_slow(name):
        return name in ELSEWHERE + LONG or name.startswith("imagenet")

    return [pytest.param(name, marks=pytest.mark.slow) if is_slow(name) else name for name in names]


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """A run that was trained and tested, with what it has logged, and what the test printed."""
    run = tmp_path_factory.mktemp("tested") / "run"
    output, code = qra("fit", *pipeline("float-plain"), *FIT, *LOGGED, "--run", run)
    assert code == 0, output
    output, code = qra("test", "--ckpt_path", run / "best.ckpt")
    assert code == 0, output
    return run, output


@pytest.mark.parametrize("name", marked(name for name in PIPELINES if not name.startswith("ptq")))
def test_every_pipeline_trains_and_is_tested(name, plain_run):
    extra = ["--trainer.max_epochs", 1, "--model.init_args.val_attack.steps", 1, *quick(name)]
    extra += teacher(plain_run / "best.ckpt") if name.endswith("transfer") else []
    output, code = qra("fit", *pipeline(name), *(TINY_FIT if name.startswith("imagenet") else FIT), *extra)
    assert code == 0, output
    output, code = qra("test", "--ckpt_path", f"runs/{name}/last.ckpt", *TINY)
    assert code == 0, output
    assert "PGD-2" in output


@pytest.mark.parametrize(
    "name",
    [
        "ptq-uniform",
        pytest.param("ptq-pwlq", marks=pytest.mark.slow),  # which test_quantized_runs.py calibrates and tests again
    ],
)
def test_every_pipeline_quantizes_after_training_and_its_checkpoint_tests_the_same(name, plain_run):
    bits = [*NETWORK, "--trainer.callbacks.scheme.weight_bit_width", 3]
    output, code = qra("test", *pipeline(name), *TINY, *bits, "--ckpt_path", plain_run / "best.ckpt", "--run", "ptq")
    assert code == 0, output
    first = json.loads(Path("ptq/result.json").read_text())["outcomes"]
    first.pop("clean_uniform4", None)  # needs the float network
    again = ["--ckpt_path", "ptq/calibrated.ckpt", "--run", "again"]
    output, code = qra("test", *pipeline("float-plain"), *TINY, *NETWORK, *again)
    assert code == 0, output
    assert json.loads(Path("again/result.json").read_text())["outcomes"] == first


def test_there_is_no_other_pipeline_that_quantizes_after_training():
    assert [name for name in PIPELINES if name.startswith("ptq")] == ["ptq-pwlq", "ptq-uniform"]


def test_quantizing_the_checkpoint_of_a_run_leaves_its_figures_alone(plain_run):
    run = shutil.copytree(plain_run, "run")
    output, code = qra("test", *pipeline("ptq-pwlq"), *TINY, *NETWORK, "--ckpt_path", f"{run}/best.ckpt")
    assert code == 0, output
    assert not Path(run, "result.json").exists()
    result = json.loads(Path("runs/ptq-pwlq/result.json").read_text())
    assert result["scheme"]["init_args"]["weight_bit_width"] == 4
    assert result["cost"]["size_in_bits"] < 16 * result["cost"]["parameters"], "of 32, scales and BatchNorm included"


def test_a_run_directory_holds_what_the_readme_says(tested):
    run, _ = tested
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "run.json", "last.ckpt", "best.ckpt", "tensorboard"} <= names
    sheet = json.loads((run / "run.json").read_text())
    assert sheet["versions"]["torch"] == metadata.version("torch")
    assert len(sheet["data"]["sha256"]) == 64


def test_the_saved_config_names_every_setting_and_repeats_the_run(plain_run):
    config = yaml.safe_load((plain_run / "config.yaml").read_text())
    assert config["model"]["init_args"]["val_attack"]["init_args"]["eps"] == "8/255"
    output, code = qra("fit", "--config", plain_run / "config.yaml", "--run", "again")
    assert code == 0, output
    first, second = (torch.load(path / "last.ckpt", weights_only=True) for path in (plain_run, Path("again")))
    assert all(torch.equal(value, second["state_dict"][name]) for name, value in first["state_dict"].items())


def test_print_config_can_be_fed_back():
    printed, code = qra("fit", *pipeline("float-at"), *TINY_FIT, "--print_config")
    assert code == 0
    Path("printed.yaml").write_text(printed)
    again, code = qra("fit", "--config", "printed.yaml", "--print_config")
    assert code == 0
    assert yaml.safe_load(again) == yaml.safe_load(printed)


def test_lengths_may_be_fractions_and_numbers():
    printed, _ = qra("fit", *pipeline("float-at"), "--model.init_args.attack.init_args.eps", "4/255", "--print_config")
    assert yaml.safe_load(printed)["model"]["init_args"]["attack"]["init_args"]["eps"] == "4/255"
    printed, _ = qra("fit", *pipeline("float-at"), "--model.init_args.attack.init_args.eps", "0.031", "--print_config")
    assert float(yaml.safe_load(printed)["model"]["init_args"]["attack"]["init_args"]["eps"]) == 0.031


def test_test_writes_the_same_figures_everywhere(tested):
    run, output = tested
    result = json.loads(Path(f"{run}/result.json").read_text())
    outcomes = result["outcomes"]
    assert list(outcomes) == ["clean", "pgd2_0", "pgd2_2", "pgd2_8"]
    assert outcomes["clean"]["n"] == 40
    assert outcomes["pgd2_8"]["n"] == 10
    assert result["checkpoint"]["sha256"] == checkpoint.sha256(f"{run}/best.ckpt")
    assert result["scheme"] is None
    assert result["cost"]["size_in_bits"] == 32 * result["cost"]["parameters"] > 0
    for name, (indices, correct) in read_correct(Path(run) / "correct.npz").items():
        assert correct.float().mean().item() == pytest.approx(outcomes[name]["accuracy"])
        assert len(indices.unique()) == len(indices)
        assert f"{outcomes[name]['accuracy']:.2%}" in output
    events = EventAccumulator(f"{run}/tensorboard").Reload()
    logged = events.Scalars("test/pgd2_8_acc")[-1].value
    assert logged == pytest.approx(outcomes["pgd2_8"]["accuracy"])
    assert "test/robustness" in events.Tags()["images"]


def test_clean_accuracy_is_that_of_the_loaded_network(tested):
    run, _ = tested
    accuracy = json.loads(Path(f"{run}/result.json").read_text())["outcomes"]["clean"]["accuracy"]
    data = package.data.SyntheticDataModule(
        train_size=80, test_size=40, val_size=20, batch_size=20, calibration_size=20
    )
    data.setup()
    with torch.no_grad():
        logits = package.load(f"{run}/best.ckpt")(data.data.test.images.float() / 255)
    assert (logits.argmax(1) == data.data.test.labels).float().mean().item() == pytest.approx(accuracy)


def test_a_checkpoint_does_not_override_the_command_line(plain_run):
    arguments = [*pipeline("float-at"), *TINY, *NETWORK, "--ckpt_path", plain_run / "best.ckpt", "--run", "here"]
    output, code = qra("test", *arguments, "--data.init_args.test_size", 30)
    assert code == 0, output
    config = yaml.safe_load(Path("here/test/config.yaml").read_text())
    assert config["model"]["class_path"] == "qra.modules.AdversarialTraining"
    assert json.loads(Path("here/result.json").read_text())["outcomes"]["clean"]["n"] == 30


def test_validate_prints_the_metrics(plain_run):
    output, code = qra("validate", "--ckpt_path", plain_run / "best.ckpt", "--run", "here")
    assert code == 0, output
    assert "val/robust_acc" in output


def test_predict_writes_images_and_a_picture(plain_run):
    output, code = qra("predict", "--ckpt_path", plain_run / "best.ckpt", "--run", "here", "--examples.n", 12)
    assert code == 0, output
    with np.load("here/adversarial.npz", allow_pickle=False) as arrays:
        x, x_adv = arrays["x"], arrays["x_adv"]
        assert x.dtype == x_adv.dtype == np.float32
        assert x.shape == (12, 3, 32, 32)
        assert np.abs(x_adv - x).max() <= 8 / 255 + 1e-6
        assert (np.diff(arrays["indices"]) > 0).all()
    assert Path("here/adversarial.png").read_bytes()[:4] == b"\x89PNG"


def test_compare_sets_runs_side_by_side(tested):
    run, _ = tested
    output, code = qra("compare", run, f"{run}/result.json")
    assert code == 0
    assert "PGD-2, eps 8/255" in output


def test_a_foreign_network_is_trained_and_loaded_again():
    network = CONFIGS.parent / "tests" / "cli" / "foreign.yaml"
    output, code = qra(
        "fit", *pipeline("float-plain"), *TINY_FIT, "--trainer.max_epochs", 1, "--model.init_args.network", network
    )
    assert code == 0, output
    loaded = package.load("runs/float-plain/best.ckpt")
    assert loaded(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_a_switch_of_lightnings_own_works():
    """Beside ``--trainer.logger false``, which all of these tests have."""
    output, code = qra("fit", *pipeline("float-plain"), *FIT, "--trainer.fast_dev_run", "true")
    assert code == 0, output


def test_progress_in_a_log_is_one_line_an_epoch():
    output, code = qra("fit", *pipeline("float-plain"), *FIT, "--trainer.enable_progress_bar", "true")
    assert code == 0, output
    lines = [line for line in output.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert all("val/clean_acc" in line and "val/robust_acc" in line and "train/loss" in line for line in lines)


def test_the_config_of_a_resumed_run_resumes_nothing():
    fit = ["fit", *pipeline("float-plain"), *FIT, "--run", "run"]
    for more in ([], ["--ckpt_path", "last", "--trainer.max_epochs", 3]):
        output, code = qra(*fit, *more)
        assert code == 0, output
    assert yaml.safe_load(Path("run/config.yaml").read_text())["ckpt_path"] is None
    line = refused("fit", "--config", "run/config.yaml", "--ckpt_path", "run/last.ckpt", "--run", "other")
    assert "its training is finished" in line
    assert not Path("other").exists()


def test_a_foreign_checkpoint_takes_no_run_of_another_for_its_own(plain_run):
    run = Path(shutil.copytree(plain_run, "run"))
    Path("elsewhere").mkdir()
    shutil.copy(run / "best.ckpt", "elsewhere/weights.ckpt")
    line = refused("test", "--config", run / "config.yaml", "--ckpt_path", "elsewhere/weights.ckpt")
    assert "give a directory by --run" in line


def test_a_test_stands_at_the_step_of_its_checkpoint_beside_the_hyperparameters(tested):
    run, _ = tested
    steps = torch.load(f"{run}/best.ckpt", weights_only=True)["global_step"]
    events = EventAccumulator(f"{run}/tensorboard").Reload()
    assert {point.step for point in events.Scalars("test/clean_acc")} == {steps}
    assert events.Images("test/adversarial")[0].step == steps
    contents = [
        events.SummaryMetadata(f"_hparams_/{tag}").plugin_data.content for tag in ("session_start_info", "experiment")
    ]
    row, table = (HParamsPluginData.FromString(content) for content in contents)
    assert row.session_start_info.hparams["training"].string_value.startswith("VanillaTraining(")
    columns = {column.name: column.differs for column in table.experiment.hparam_infos}
    assert columns.keys() >= {"scheme", "transfer", "study/quantizer"}, "each run names the columns of all"
    assert columns["scheme"]
    assert not columns["checkpoint"]
    assert yaml.safe_load(Path(run, "tensorboard/hparams.yaml").read_text())["optimizer"].startswith("SGD(")
