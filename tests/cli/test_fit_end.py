"""What is computed at the end of fit is computed while the network still lies on its device."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gone
import numpy as np
import pytest
from commands import CONFIGS, LOGGED, NETWORK, TINY, TINY_FIT, crashed, pipeline, qra, refused, teacher, trained
from lightning.pytorch.strategies import Strategy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from qra import checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*not robust")

AUTOATTACK = ["--trainer.callbacks+", str(CONFIGS / "callback/autoattack.yaml"), "--trainer.callbacks.n", "10"]
AUTOATTACK += ["--trainer.callbacks.attack.steps", "2", "--trainer.callbacks.attack.queries", "5"]
AUTOATTACK += ["--trainer.callbacks.attack.eps", "1/255"]
FIT = [*TINY_FIT, *LOGGED, *NETWORK, *AUTOATTACK]
FIT += ["--trainer.max_epochs", "1", "--model.init_args.val_attack.steps", "1"]
ONE_STEP = ["--model.init_args.attack.init_args.steps", "1"]
PTQ = ["--trainer.callbacks+", str(CONFIGS / "callback/ptq-uniform.yaml")]


@pytest.fixture
def _network_gone_at_teardown(monkeypatch):
    monkeypatch.setattr(Strategy, "teardown", gone.teardown)


@pytest.fixture(scope="module")
def float_checkpoint(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("float"), *FIT)


def arguments(kind, float_checkpoint):
    start = ["--model.init_args.init_from", float_checkpoint]
    return [
        "fit",
        *{
            "float": [*pipeline("float-at"), *FIT, *ONE_STEP],
            "quantized": [*pipeline("qat-at"), *FIT, *ONE_STEP, *start],
            "transfer": [*pipeline("float-transfer"), *teacher(float_checkpoint), *FIT, *start],
            "calibrated": [*pipeline("float-plain"), *FIT, *PTQ],
        }[kind],
    ]


def check_run(run, kind, world_size):
    result = json.loads(Path(run, "result.json").read_text())
    assert result["outcomes"]["autoattack_1"]["n"] == 10
    assert result["world_size"] == world_size
    assert (result["scheme"] is not None) == (kind in ("quantized", "calibrated"))
    assert Path(result["checkpoint"]["path"]).name == ("calibrated.ckpt" if kind == "calibrated" else "best.ckpt")
    assert result["checkpoint"]["sha256"] == checkpoint.sha256(result["checkpoint"]["path"])
    assert not result["autocast"]
    assert ("teacher" in result) == (kind == "transfer")
    board = EventAccumulator(str(Path(run, "tensorboard")), size_guidance={"images": 0}).Reload()
    drawn = {"quant/weight", "quant/activation"} & set(board.Tags()["images"])
    assert bool(drawn) == (kind in ("quantized", "calibrated"))


@pytest.mark.usefixtures("_network_gone_at_teardown")
@pytest.mark.parametrize("kind", ["float", "quantized", "transfer", "calibrated"])
def test_nothing_computes_on_a_network_that_was_taken_off_its_device(float_checkpoint, kind):
    output, code = qra(*arguments(kind, float_checkpoint), "--run", "run")
    assert code == 0, output
    check_run("run", kind, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float", "quantized", "transfer", "calibrated"])
def test_nothing_does_in_two_processes(float_checkpoint, kind):
    devices = ["--config", str(CONFIGS / "trainer/ddp-cpu.yaml")]
    command = [sys.executable, gone.__file__, *map(str, arguments(kind, float_checkpoint)), *devices, "--run", "run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check_run("run", kind, 2)


@pytest.mark.usefixtures("_network_gone_at_teardown")
def test_an_end_of_fit_that_was_interrupted_is_made_up_for():
    fit = ["fit", *pipeline("float-at"), *FIT, *ONE_STEP]
    crashed(*fit, "--trainer.callbacks+", "crash.CrashAtTheEnd", "--run", "interrupted")
    assert not Path("interrupted/result.json").exists()
    output, code = qra(*fit, "--run", "interrupted", "--ckpt_path", "last")
    assert code == 0, output
    output, code = qra(*fit, "--run", "whole")
    assert code == 0, output
    results = [json.loads(Path(run, "result.json").read_text()) for run in ("interrupted", "whole")]
    assert results[0]["outcomes"] == results[1]["outcomes"]
    with np.load("interrupted/correct.npz") as interrupted, np.load("whole/correct.npz") as whole:
        assert all(np.array_equal(interrupted[name], whole[name]) for name in whole)


def test_a_callback_of_ones_own_behaves_like_the_one_that_it_derives_from(float_checkpoint):
    """It comes before what measures, and its network gets a directory of its own."""
    run = Path(shutil.copytree(Path(float_checkpoint).parent / "run", "run"))
    before = (run / "result.json").read_bytes()
    mine = ["--trainer.callbacks", "[crash.OwnCalibration]", *TINY, *NETWORK]
    output, code = qra("test", *pipeline("float-plain"), *mine, "--ckpt_path", run / "best.ckpt")
    assert code == 0, output
    assert json.loads(Path("runs/float-plain/result.json").read_text())["scheme"] is not None
    assert (run / "result.json").read_bytes() == before


def test_a_precision_that_changes_the_weights_is_refused():
    line = refused("fit", *pipeline("float-plain"), *FIT, "--trainer.precision", "bf16-true", "--run", "run")
    assert "trainer.precision is bf16-true" in line
    assert not Path("run").exists()
