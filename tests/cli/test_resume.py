"""A run that was cut off goes on to the same end, bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import CONFIGS, NETWORK, TINY_FIT, crashed, pipeline, qra
from same import end_of, same

FIT = [*TINY_FIT, "--trainer.max_epochs", "4", "--model.init_args.val_attack.steps", "1"]


@pytest.mark.parametrize("name", ["float-plain", pytest.param("float-at", marks=pytest.mark.slow)])
def test_a_crashed_run_resumes_to_the_same_weights(name):
    crash = ["--trainer.callbacks+", "crash.CrashAfter", "--trainer.callbacks.epochs", "2"]
    crashed("fit", *pipeline(name), *FIT, *NETWORK, *crash, "--run", "crashed")
    assert end_of("crashed")["epoch"] == 1
    output, code = qra("fit", *pipeline(name), *FIT, *NETWORK, "--run", "crashed", "--ckpt_path", "last")
    assert code == 0, output
    output, code = qra("fit", *pipeline(name), *FIT, *NETWORK, "--run", "whole")
    assert code == 0, output
    assert end_of("whole")["epoch"] == 3
    assert same(end_of("crashed"), end_of("whole"))
    best = [torch.load(f"{run}/best.ckpt", weights_only=True) for run in ("crashed", "whole")]
    assert same(best[0]["state_dict"], best[1]["state_dict"])


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(plain_run):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "qra", "test", "--config", str(plain_run / "config.yaml"), "--ckpt_path"]
    command += [str(plain_run / "best.ckpt"), "--data.init_args.test_size", "47", "--evaluation.n", "33"]
    command += ["--trainer.callbacks+", str(CONFIGS / "callback/masking.yaml"), "--trainer.callbacks.n", "33"]
    devices = ["--trainer.accelerator", "cpu", "--trainer.strategy", "ddp", "--trainer.devices", "2"]
    subprocess.run([*command, "--run", "one"], check=True, env=environment, capture_output=True)
    subprocess.run([*command, "--run", "two", *devices], check=True, env=environment, capture_output=True)
    one, two = (json.loads(Path(run, "result.json").read_text()) for run in ("one", "two"))
    assert (one["world_size"], two["world_size"]) == (1, 2)
    assert one["outcomes"] == two["outcomes"]
    assert one["outcomes"]["clean"]["n"] == 47
    assert indicators(one) == pytest.approx(indicators(two), rel=1e-4)
    assert len(indicators(one)) > 10


def indicators(result):
    """Values by name, without those of Square, whose draws depend on which examples are attacked together."""
    found = {each["name"]: each["value"] for each in result["masking"]["indicators"] if each["name"] != "square"}
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.slow
def test_two_processes_train_one_network():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    devices = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.callbacks+", "crash.CompareRanks"]
    command = [sys.executable, "-m", "qra", "fit", *pipeline("float-at"), *FIT, *devices, "--run", "two"]
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path("same-weights-0").exists()
    assert Path("same-weights-1").exists()
