"""Robust transfer from the command line."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import CONFIGS, NETWORK, TINY_FIT, crashed, pipeline, qra, refused, teacher, trained
from test_resume import end_of, same

import qra as package

pytestmark = pytest.mark.filterwarnings("ignore:.*not robust")

FIT = [*TINY_FIT, *NETWORK, "--model.init_args.val_attack.steps", 1]
TRANSFER = "--model.init_args.transfer"
STEPS = f"{TRANSFER}.init_args.attack.init_args.steps"
TRANSFERS = sorted(path.stem for path in (CONFIGS / "transfer").glob("*.yaml"))


@pytest.fixture(scope="module")
def tiny_teacher(tmp_path_factory):
    """A trained tiny network: its checkpoint."""
    return trained(tmp_path_factory.mktemp("teacher"), *FIT)


ALIKE = [("float", "lwf"), ("float", "rslad"), *(("qat", name) for name in TRANSFERS)]
"""Students; losses of all transfers are compared with others' elsewhere."""
LONG = [("qat", name) for name in ("ard", "iad", "rrm")]


@pytest.mark.parametrize(
    ("kind", "name"), [pytest.param(*each, marks=[pytest.mark.slow] if each in LONG else []) for each in ALIKE]
)
def test_every_transfer_trains_float_and_quantized_students_alike(tiny_teacher, kind, name):
    config = CONFIGS / f"transfer/{name}.yaml"
    fit = ["fit", *pipeline(f"{kind}-transfer"), *FIT, *teacher(tiny_teacher), "--trainer.max_epochs", 1]
    output, code = qra(*fit, TRANSFER, config, "--model.init_args.init_from", tiny_teacher, "--run", "run")
    assert code == 0, output
    student = package.load("run/best.ckpt")
    assert student(torch.rand(2, 3, 32, 32)).isfinite().all()
    assert hasattr(student.relu1, "bit_width") == (kind == "qat")


REPLACED = [("ard", "rslad"), ("rslad", "ard"), ("rslad", "lwf")]
"""A loss with settings of its own, one that attacks, one that does not."""
ALL_REPLACED = [("ard", "rslad"), ("ard", "adaad"), *(("rslad", name) for name in TRANSFERS)]


@pytest.mark.parametrize(
    ("before", "name"),
    [pytest.param(*pair, marks=[] if pair in REPLACED else [pytest.mark.slow]) for pair in ALL_REPLACED],
)
def test_nothing_of_a_transfer_that_is_replaced_stays(name, before):
    config = CONFIGS / f"transfer/{name}.yaml"
    fit = ["fit", *pipeline("float-transfer")]
    replaced, code = qra(*fit, TRANSFER, CONFIGS / f"transfer/{before}.yaml", TRANSFER, config, "--print_config")
    assert code == 0, replaced
    Path("alone.yaml").write_text(
        Path(CONFIGS / "pipeline/float-transfer.yaml")
        .read_text()
        .replace("../transfer/rslad.yaml", str(config))
        .replace("../", f"{CONFIGS}/")
    )
    alone, code = qra("fit", "--config", "alone.yaml", "--print_config")
    assert code == 0, alone
    assert replaced == alone


PAGE = (CONFIGS.parent / "docs/transfer.md").read_text()
COMMANDS = [line.removeprefix("$ ") for line in PAGE.splitlines() if line.startswith("$ qra ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_of_the_page_on_transfer_is_understood(command):
    Path("configs").symlink_to(CONFIGS)
    output, code = qra(*shlex.split(command)[1:], "--print_config")
    assert code == 0, output


def test_the_page_on_transfer_knows_every_transfer():
    assert all(f"| `{name}` |" in PAGE for name in TRANSFERS)


def test_a_finished_student_is_tested_without_its_teacher(tiny_teacher):
    copied = shutil.copy(tiny_teacher, "teacher.ckpt")
    fit = ["fit", *pipeline("qat-transfer"), *FIT, *teacher(copied), STEPS, 1, "--trainer.max_epochs", 1]
    output, code = qra(*fit)
    assert code == 0, output
    Path(copied).unlink()
    output, code = qra("test", "--ckpt_path", "runs/qat-transfer/best.ckpt")
    assert code == 0, output
    assert json.loads(Path("runs/qat-transfer/result.json").read_text())["outcomes"]["clean"]["n"] == 40


@pytest.mark.slow
def test_a_crashed_transfer_resumes_to_the_same_weights(tiny_teacher):
    crash = ["--trainer.callbacks+", "crash.CrashAfter", "--trainer.callbacks.epochs", 2]
    fit = ["fit", *pipeline("qat-transfer"), *FIT, *teacher(tiny_teacher), STEPS, 1, "--trainer.max_epochs", 4]
    fit += ["--data.init_args.fraction", 0.5, "--data.init_args.budget", "steps"]
    crashed(*fit, *crash, "--run", "crashed")
    output, code = qra(*fit, "--run", "crashed", "--ckpt_path", "last")
    assert code == 0, output
    output, code = qra(*fit, "--run", "whole")
    assert code == 0, output
    assert end_of("whole")["epoch"] == 3
    assert same(end_of("crashed"), end_of("whole"))


def fit_refused(*arguments):
    reason = refused("fit", *arguments)
    assert not list(Path().glob("**/*.ckpt"))
    assert not list(Path().glob("runs"))
    return reason


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--trainer.callbacks", "[]"], "RobustTransfer has no teacher: add --trainer.callbacks+"),
        (["--trainer.callbacks.teacher", "none.ckpt"], "none.ckpt: there is no such checkpoint"),
        (["--trainer.callbacks.teacher", __file__], "is not a checkpoint, neither of torch.save"),
        (["--trainer.callbacks.sha256", "00"], "is not the expected teacher: its sha256 is"),
        ([TRANSFER, str(CONFIGS / "transfer/ard.yaml"), f"{TRANSFER}.temperature", "0"], "temperature is 0.0"),
        ([TRANSFER, str(CONFIGS / "transfer/ard.yaml"), f"{TRANSFER}.kd_weight", "1.5"], "kd_weight is 1.5"),
        ([TRANSFER, "qra.modules.Nonsense"], "Nonsense"),
        ([f"{TRANSFER}.attack", str(CONFIGS / "attack/fgsm-rs.yaml")], "the attack has the loss cross_entropy, but"),
        (
            ["--trainer.callbacks.teacher", "resnet18.ckpt", TRANSFER, str(CONFIGS / "transfer/lwf.yaml")],
            "the student has 64 and the teacher 512",
        ),
        (["--trainer.callbacks.teacher", "seven.ckpt"], "the teacher has 7 classes, but the data has 10"),
    ],
    ids=lambda value: " ".join(Path(word).name for word in value) if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_named_and_nothing_written(arguments, reason, foreign_teachers):
    arguments = [foreign_teachers.get(word, word) for word in arguments]
    assert reason in fit_refused(*pipeline("float-transfer"), *TINY_FIT, *teacher(), *arguments)


@pytest.fixture(scope="module")
def foreign_teachers(tmp_path_factory):
    """Untrained checkpoints, by the name that stands for them."""
    directory, made = tmp_path_factory.mktemp("foreign"), {}
    networks = {"resnet18.ckpt": package.models.resnet18(), "seven.ckpt": package.models.resnet20(num_classes=7)}
    for name, network in networks.items():
        made[name] = str(directory / name)
        state = {f"network.{key}": value for key, value in network.state_dict().items()}
        torch.save({"state_dict": state, "qra": {"network": network.description}}, made[name])
    return made


def test_a_teacher_that_is_not_robust_is_refused_in_one_line(tiny_teacher):
    output, code = qra("fit", *pipeline("float-transfer"), *FIT, "--trainer.callbacks.teacher", tiny_teacher)
    (line,) = [line for line in output.splitlines() if line.startswith("qra: error: ")]
    assert code == 2
    assert "it is not robust (least_robust_acc is 20.0%)" in line
    assert "set if_not_robust to warn" in line
    assert not list(Path().glob("**/*.ckpt"))


def test_a_teacher_for_a_student_that_takes_none_is_refused():
    extra = ["--trainer.callbacks+", str(CONFIGS / "callback/teacher.yaml"), *teacher()]
    assert "VanillaTraining does not use one" in fit_refused(*pipeline("float-plain"), *TINY_FIT, *extra)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rslad", "adaad", "lwf"])
def test_two_processes_train_one_student(tiny_teacher, name):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{Path(__file__).parent}:{CONFIGS.parent}"}
    command = [sys.executable, "-m", "qra", "fit", *pipeline("qat-transfer"), *FIT, *teacher(tiny_teacher)]
    command += [TRANSFER, CONFIGS / f"transfer/{name}.yaml", "--run", "two"]
    command += ["--trainer.strategy", "ddp", "--trainer.devices", 2, "--trainer.callbacks+", "crash.CompareRanks"]
    done = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path("same-weights-0").exists()
    assert Path("same-weights-1").exists()
