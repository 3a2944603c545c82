"""AutoAttack from the command line, in one process and in two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import CONFIGS, NETWORK, TINY, TINY_FIT, pipeline, qra

AUTOATTACK = ["--trainer.callbacks+", str(CONFIGS / "callback/autoattack.yaml")]
SHORT = [*AUTOATTACK, "--trainer.callbacks.attack.steps", "3", "--trainer.callbacks.attack.queries", "10"]
LONG = [*AUTOATTACK, "--trainer.callbacks.attack.eps", "1/255", "--trainer.callbacks.attack.steps", "10"]
LONG += ["--trainer.callbacks.attack.queries", "100", "--trainer.callbacks.n", "60", "--trainer.callbacks.chunk_size"]
LONG += ["6", "--evaluation.n", "10", "--evaluation.steps", "1", "--evaluation.eps", "[1/255]"]


@pytest.fixture(scope="module")
def learned_run(tmp_path_factory):
    """A run whose small network is mostly correct, and robust here and there."""
    run = tmp_path_factory.mktemp("learned") / "run"
    sizes = ["--data.init_args.train_size", "600", "--data.init_args.test_size", "60", "--trainer.max_epochs", "6"]
    network = [*NETWORK, "--model.init_args.optimizer.init_args.lr", "0.05"]
    output, code = qra("fit", *pipeline("float-plain"), *TINY_FIT, *sizes, *network, "--run", run)
    assert code == 0, output
    return run


def autoattack(tested, run, *arguments):
    """Test the checkpoint of a run in a process of its own; return accuracies and outcomes of examples, by name."""
    test = [sys.executable, "-m", "qra", "test", "--config", str(tested / "config.yaml"), "--ckpt_path"]
    command = [*test, str(tested / "best.ckpt"), *LONG, "--run", run, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CONFIGS.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(Path(run, "result.json").read_text())["outcomes"]
    with np.load(Path(run, "correct.npz"), allow_pickle=False) as arrays:
        outcomes = {name: arrays[name].tolist() for name in arrays if name.startswith("autoattack")}
    return {name: entry for name, entry in result.items() if name.startswith("autoattack")}, outcomes


def test_progress_in_a_log_is_a_line_for_each_attack_on_each_chunk(plain_run):
    small = ["--trainer.callbacks.n", "20", "--trainer.callbacks.chunk_size", "10"]
    bar = ["--trainer.enable_progress_bar", "true", "--run", "here"]
    output, code = qra("test", "--ckpt_path", plain_run / "best.ckpt", *SHORT, *small, *bar)
    assert code == 0, output
    lines = [line for line in output.splitlines() if "eps 8/255  chunk " in line]
    assert [line.partition("chunk ")[2].partition(":")[0] for line in lines] == [
        f"{chunk}/2, {attack}" for chunk in (1, 2) for attack in ("APGD-CE", "APGD-T", "FAB-T", "Square, 10 queries")
    ]
    assert all("shortened AutoAttack (3 steps, 10 queries)" in line for line in lines)
    assert all("% correct" in line for line in lines)
    assert "correct, about" in lines[4]  # one chunk is done, from which the time of the other is known
    assert "after APGD-T" in output


def test_at_the_end_of_fit_the_network_is_quantized_before_it_is_attacked():
    callbacks = [*SHORT, "--trainer.callbacks.n", "10"]
    callbacks += ["--trainer.callbacks+", str(CONFIGS / "callback/ptq-uniform.yaml")]
    brief = ["--trainer.max_epochs", "1", "--model.init_args.val_attack.steps", "1"]
    output, code = qra("fit", *pipeline("float-plain"), *TINY_FIT, *brief, *NETWORK, *callbacks, "--run", "here")
    assert code == 0, output
    result = json.loads(Path("here/result.json").read_text())
    assert result["scheme"] is not None
    assert result["outcomes"]["autoattack_8"]["n"] == 10
    assert result["checkpoint"]["path"] == "here/calibrated.ckpt"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--trainer.callbacks.n", "41"], "n is 41, but there are only 40 test images"),
        (["--trainer.callbacks.attack.eps", "8"], "did you mean 8/255"),
        (["--trainer.callbacks.mode", "both"], "both"),
        (["--trainer.callbacks.chunk_size", "0"], "chunk_size is 0"),
    ],
)
def test_a_wrong_argument_is_named(plain_run, arguments, reason):
    run = [*pipeline("float-plain"), *TINY, *NETWORK, "--ckpt_path", plain_run / "best.ckpt", "--run", "here"]
    output, code = qra("test", *run, *SHORT, *arguments)
    assert code == 2, output
    assert reason in output.splitlines()[-1]
    assert not Path("here").exists()


@pytest.mark.slow
def test_two_processes_end_like_one(learned_run):
    devices = ["--trainer.accelerator", "cpu", "--trainer.strategy", "ddp", "--trainer.devices", "2"]
    one = autoattack(learned_run, "one")
    assert autoattack(learned_run, "two", *devices) == one
    assert 0 < one[0]["autoattack_1"]["accuracy"] < 1
