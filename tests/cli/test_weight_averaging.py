"""Weights that Lightning averages: what is validated is what is kept, and what is trained is what is attacked."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import CONFIGS, NETWORK, TINY_FIT, crashed, pipeline, qra
from test_resume import same

pytestmark = pytest.mark.filterwarnings("ignore:Experiment logs")

AVERAGED = ["--trainer.callbacks+", str(CONFIGS / "callback/weight-averaging.yaml")]
AVERAGED += ["--trainer.callbacks.decay", "0.9"]
FIT = [*TINY_FIT, *NETWORK, *AVERAGED, "--trainer.max_epochs", "2", "--model.init_args.optimizer.init_args.lr", "0.2"]
FIT += ["--model.init_args.attack.init_args.steps", "2", "--model.init_args.val_attack.steps", "2"]


def scores(run):
    """Validation accuracy and loss, clean and robust, of each epoch."""
    names = ("val/clean_acc", "val/robust_acc", "val/clean_loss", "val/robust_loss")
    with open(Path(run, "metrics.csv")) as file:
        rows = [row for row in csv.DictReader(file) if row["val/clean_acc"]]
    return [tuple(float(row[name]) for name in names) for row in rows]


def to(run):
    """Write to a directory, metrics as a table."""
    logger = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", ".", "--trainer.logger.name", "."]
    return [*logger, "--trainer.logger.version", run, "--run", run]


@pytest.mark.parametrize("kind", [pytest.param("float-at", marks=pytest.mark.slow), "qat-at"])
def test_what_validation_scored_is_what_the_best_checkpoint_scores(kind):
    output, code = qra("fit", *pipeline(kind), *FIT, *to("run"))
    assert code == 0, output
    best, last = (torch.load(f"run/{name}.ckpt", weights_only=True) for name in ("best", "last"))
    kept = scores("run")[best["epoch"]]
    output, code = qra("validate", "--ckpt_path", "run/best.ckpt", *to("again"))
    assert code == 0, output
    assert scores("again")[0] == pytest.approx(kept, abs=1e-6)
    assert not same(last["state_dict"], last["current_model_state"]), "nothing was averaged"
    assert "current_model_state" not in best


def test_an_averaged_run_resumes_bit_for_bit():
    crash = ["--trainer.callbacks+", "crash.CrashAfter", "--trainer.callbacks.epochs", "1"]
    crashed("fit", *pipeline("qat-at"), *FIT, *crash, "--run", "crashed")
    for run, resumed in (("crashed", ["--ckpt_path", "last"]), ("whole", [])):
        output, code = qra("fit", *pipeline("qat-at"), *FIT, *to(run), *resumed)
        assert code == 0, output
    first, whole = (torch.load(f"{run}/last.ckpt", weights_only=True) for run in ("crashed", "whole"))
    for key in ("state_dict", "current_model_state", "averaging_state", "optimizer_states"):
        assert same(first[key], whole[key]), key
    assert scores("crashed")[-1] == scores("whole")[-1]


def test_an_average_that_has_not_begun_is_the_network_as_it_is():
    late = ["--trainer.callbacks.update_starting_at_step", "1000000"]
    for run, averaged in (("late", [*AVERAGED, *late]), ("plain", [])):
        fit = [argument for argument in FIT if argument not in AVERAGED] + averaged
        output, code = qra("fit", *pipeline("float-at"), *fit, *to(run))
        assert code == 0, output
    assert scores("late") == scores("plain")


def test_the_weights_tested_at_the_end_are_the_averaged_ones():
    autoattack = ["--trainer.callbacks+", str(CONFIGS / "callback/autoattack.yaml"), "--trainer.callbacks.n", "10"]
    autoattack += ["--trainer.callbacks.attack.steps", "2", "--trainer.callbacks.attack.queries", "5"]
    output, code = qra("fit", *pipeline("float-at"), *FIT, *autoattack, *to("run"))
    assert code == 0, output
    output, code = qra("test", "--ckpt_path", "run/best.ckpt", *to("again"))
    assert code == 0, output
    found = [json.loads(Path(run, "result.json").read_text())["outcomes"]["autoattack_8"] for run in ("run", "again")]
    assert found[0] == found[1]


@pytest.mark.slow
def test_two_processes_validate_one_average():
    devices = ["--config", str(CONFIGS / "trainer/ddp-cpu.yaml")]
    command = [sys.executable, "-m", "qra", "fit", *pipeline("qat-at"), *FIT, *devices, *to("run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    best = torch.load("run/best.ckpt", weights_only=True)
    output, code = qra("validate", "--config", "run/config.yaml", "--ckpt_path", "run/best.ckpt", *to("again"),
                       "--trainer.strategy", "auto", "--trainer.devices", "1")  # fmt: skip
    assert code == 0, output
    assert scores("again")[0] == pytest.approx(scores("run")[best["epoch"]], abs=1e-6)
