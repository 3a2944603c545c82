"""A run that a signal ends loses an epoch or a chunk at most, is never taken for a finished one, says how to go on."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from commands import CONFIGS, NETWORK, TINY_FIT, pipeline, qra, refused
from same import end_of, same

from qra.runs import completion
from qra.runs.completion import Training
from qra.runs.directory import LOCK

FIT = ["fit", *pipeline("float-plain"), *TINY_FIT, *NETWORK, "--model.init_args.val_attack.steps", "1"]
FIT += ["--trainer.max_epochs", "3"]
CALIBRATION = ["--trainer.callbacks+", str(CONFIGS / "callback/ptq-uniform.yaml")]
ENDLESS = ["--trainer.callbacks+", str(CONFIGS / "callback/autoattack.yaml"), "--trainer.callbacks.n", "20"]
ENDLESS += ["--trainer.callbacks.chunk_size", "2", "--trainer.callbacks.attack.eps", "0.1/255"]
ENDLESS += ["--trainer.callbacks.attack.queries", "100", "--trainer.callbacks.attack.steps"]


def at(hook, name="SIGTERM", epoch=1):
    words = ["--trainer.callbacks+", "crash.SignalAt", "--trainer.callbacks.hook", hook]
    return [*words, "--trainer.callbacks.name", name, "--trainer.callbacks.epoch", str(epoch)]


def last_line(output):
    """The line about the end, and the command in it that goes on."""
    lines = [line for line in output.splitlines() if line.startswith("qra: ")]
    assert len(lines) == 1, output
    assert "Traceback" not in output
    place, _, command = lines[0].removeprefix("qra: ").partition("; go on by: qra ")
    return place, shlex.split(command)


def without(words, dropped):
    """A command without the options that ended it."""
    start = next(place for place in range(len(words)) if words[place : place + len(dropped)] == dropped)
    return words[:start] + words[start + len(dropped) :]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was left alone."""
    run = tmp_path_factory.mktemp("whole") / "run"
    output, code = qra(*FIT, "--run", run)
    assert code == 0, output
    return run


@pytest.mark.parametrize(
    ("hook", "name", "code", "place"),
    [
        ("on_train_batch_end", "SIGTERM", 143, "stopped by SIGTERM in epoch 2 of 3"),
        ("on_validation_batch_start", "SIGINT", 130, "stopped by SIGINT during validation in epoch 2 of 3"),
    ],
)
def test_a_training_that_is_stopped_goes_on_by_the_command_it_names(whole, hook, name, code, place):
    output, found = qra(*FIT, *at(hook, name), "--run", "run")
    assert found == code, output
    told, command = last_line(output)
    assert told == place
    assert completion.read(Path("run")) == Training(False, 1, 3)
    assert end_of("run")["epoch"] == 0
    output, found = qra(*without(command, at(hook, name)))
    assert found == 0, output
    assert same(end_of("run"), end_of(whole))
    assert completion.read(Path("run")) == Training(True, 3, 3)


def test_what_is_stopped_before_its_first_step_leaves_nothing():
    output, code = qra(*FIT, *at("on_fit_start", epoch=0), "--run", "runs/run")
    assert code == 143, output
    assert last_line(output)[0] == "stopped by SIGTERM at the start of fit"
    assert not list(Path().iterdir())


def test_what_fails_before_its_first_step_leaves_nothing(unfinished):
    crash = ["--trainer.callbacks+", "crash.RefuseAtStart"]
    assert refused(*FIT, *crash, "--run", "runs/run") == "something is wrong"
    assert [path.name for path in Path().iterdir()] == [unfinished]
    before = {path: path.read_bytes() for path in Path(unfinished).rglob("*") if path.is_file()}
    resume = ["--run", unfinished, "--ckpt_path", "last", "--trainer.max_epochs", 4]
    refused(*FIT, *crash, *resume)
    assert {path: path.read_bytes() for path in Path(unfinished).rglob("*") if path.is_file()} == before


def test_a_calibration_at_the_end_of_fit_is_stopped_after_a_finished_training():
    attack = ["--trainer.callbacks.attack", "crash.SignalAttack"]
    output, code = qra(*FIT, *CALIBRATION, *attack, "--run", "run")
    assert code == 143, output
    assert last_line(output)[0] == "stopped by SIGTERM after training, while it was evaluated"
    assert completion.read(Path("run")).finished
    assert not Path("run/calibrated.ckpt").exists()


def test_a_calibration_at_the_start_of_test_is_stopped(whole):
    attack = ["--trainer.callbacks.attack", "crash.SignalAttack"]
    output, code = qra("test", "--ckpt_path", whole / "best.ckpt", *CALIBRATION, *attack, "--run", "run")
    assert code == 143, output
    assert not Path("run").exists()


def test_autoattack_that_is_stopped_keeps_its_chunks_and_goes_on_from_them(whole):
    def chunks():
        return list(Path("run").glob("chunks/autoattack_0.1-*/chunk-00000.npz"))

    def stop():
        while not chunks():
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    output, code = qra("test", "--ckpt_path", whole / "best.ckpt", *ENDLESS, "30", "--run", "run")
    assert code == 143, output
    place, command = last_line(output)
    assert place == "stopped by SIGTERM during test"
    assert chunks()
    assert not Path("run/result.json").exists()
    assert command[-2:] == ["--run", "run"]


def test_a_killed_training_goes_on_to_the_same_weights(whole):
    command = [sys.executable, "-m", "qra", *FIT, "--run", "run", "--trainer.max_epochs", "2000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CONFIGS.parent)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:
        while not Path("run/last.ckpt").exists():
            time.sleep(0.01)
        in_the_way = refused(*FIT, "--run", "run")
        killed.kill()
    assert f"process {killed.pid} on " in in_the_way
    assert killed.returncode == -signal.SIGKILL
    done = end_of("run")["epoch"] + 1
    assert completion.read(Path("run")).epochs in (done - 1, done)
    assert not completion.read(Path("run")).finished
    output, code = qra(*FIT, "--run", "run", "--trainer.max_epochs", done + 1, "--ckpt_path", "last")
    assert code == 0, output
    assert end_of("run")["epoch"] == done
    assert completion.read(Path("run")).finished
    assert not {path.name for path in Path("run").iterdir() if path.name.startswith(".")} - {LOCK}


@pytest.fixture
def unfinished(whole):
    run = shutil.copytree(whole, "unfinished")
    completion.write(Path(run), Training(False, 3, 40))
    return run


def test_a_test_of_an_unfinished_training_says_so_in_table_json_and_comparison(unfinished):
    output, code = qra("test", "--ckpt_path", f"{unfinished}/best.ckpt")
    assert code == 0, output
    assert "of a training that is unfinished, 3 of 40 epochs done" in output
    result = json.loads(Path(unfinished, "result.json").read_text())
    assert result["training"] == Training(False, 3, 40).summary()
    output, code = qra("compare", unfinished)
    assert f"{unfinished}: from a training that is unfinished, 3 of 40 epochs done" in output


def test_a_test_of_a_finished_training_says_so_in_json_alone(whole):
    output, code = qra("test", "--ckpt_path", whole / "best.ckpt", "--run", "run")
    assert code == 0, output
    assert "training" not in output
    assert json.loads(Path("run/result.json").read_text())["training"]["finished"] is True


def test_a_checkpoint_that_nothing_is_known_of_is_tested_without_a_word(whole):
    shutil.copy(whole / "best.ckpt", "alone.ckpt")
    config = ["--config", str(whole / "config.yaml")]
    output, code = qra("test", *config, "--ckpt_path", "alone.ckpt", "--run", "run")
    assert code == 0, output
    assert "training" not in json.loads(Path("run/result.json").read_text())


def test_a_start_from_an_unfinished_training_is_told(unfinished):
    start = ["--model.init_args.init_from", f"{unfinished}/best.ckpt"]
    output, code = qra(*FIT, *start, "--trainer.max_epochs", 1, "--run", "run")
    assert code == 0, output
    assert "which this run starts from, comes from a training that is unfinished, 3 of 40 epochs done" in output


@pytest.mark.parametrize(
    "options",
    [
        ["--data.init_args.val_size", "0"],
        ["--trainer.limit_val_batches", "0"],
        ["--trainer.check_val_every_n_epoch", "5"],
    ],
    ids=" ".join,
)
def test_a_training_without_validation_leaves_its_last_epoch_as_the_best(options):
    output, code = qra(*FIT, *options, "--run", "run")
    assert code == 0, output
    assert "no epoch was validated: best.ckpt holds the last one" in output
    best, last = (torch.load(f"run/{name}.ckpt", weights_only=True) for name in ("best", "last"))
    assert same(best["state_dict"], last["state_dict"])
    assert completion.read(Path("run")) == Training(True, 3, 3, validated=False)
