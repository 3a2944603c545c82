"""A training goes on from its own checkpoint with its own settings, or one line says why not."""

import shutil
from pathlib import Path

import pytest
import torch
from commands import NETWORK, TINY_FIT, pipeline, qra, refused

FIT = ["fit", *pipeline("float-plain"), *TINY_FIT, *NETWORK]
SGD = "--model.init_args.optimizer.init_args"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / "run"
    output, code = qra(*FIT, "--trainer.max_epochs", 1, "--model.init_args.val_attack.steps", 1, "--run", run)
    assert code == 0, output
    return run


@pytest.fixture
def run(trained):
    return Path(shutil.copytree(trained, "run"))


def resume(run, *options):
    """Go on with one more epoch, in a way that must be refused; return why, in one line."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    command = [*FIT, "--model.init_args.val_attack.steps", 1, "--trainer.max_epochs", 2, "--run", run]
    reason = refused(*command, "--ckpt_path", run / "last.ckpt", *options)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    return reason


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([f"{SGD}.lr", "0.3"], "model.optimizer.lr was 0.1 and is 0.3"),
        (["--data.init_args.batch_size", "10"], "data.batch_size was 20 and is 10"),
        (["--data.init_args.train_size", "100"], "data.sha256 was "),
        (["--seed_everything", "1"], "seed_everything was 0 and is 1"),
        (["--trainer.precision", "bf16-mixed"], "trainer.precision was 32-true and is bf16-mixed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_other_settings_are_refused_by_name(run, options, reason):
    told = resume(run, *options)
    assert told.startswith("run/last.ckpt: ")
    assert reason in told


def test_more_epochs_may_follow(run):
    command = [*FIT, "--model.init_args.val_attack.steps", 1, "--trainer.max_epochs", 2, "--run", run]
    output, code = qra(*command, "--ckpt_path", "last")
    assert code == 0, output
    assert torch.load(run / "last.ckpt", weights_only=True)["epoch"] == 1
    told = resume(run, "--trainer.max_epochs", 1)
    assert told == "run/last.ckpt: is of epoch 2, trainer.max_epochs is 1: give at least 2"


def test_a_finished_training_whose_last_checkpoint_is_gone_is_not_begun_anew_in_its_place(run):
    (run / "last.ckpt").unlink()
    before = (run / "best.ckpt").read_bytes()
    assert refused(*FIT, "--run", run) == "run already holds a run: write to another directory by --run"
    assert (run / "best.ckpt").read_bytes() == before


def test_the_score_of_a_best_checkpoint_that_is_gone_is_not_that_of_the_one_written_in_its_place(run):
    (run / "best.ckpt").unlink()
    output, code = qra(
        *FIT, "--model.val_attack.steps", 1, "--trainer.max_epochs", 1, "--run", run, "--ckpt_path", "last"
    )
    assert code == 0, output
    assert "best.ckpt holds the last one" in output
    assert "best epoch" not in output


def test_weights_alone_are_no_place_to_go_on_from(run):
    shutil.copy(run / "best.ckpt", run / "last.ckpt")
    told = resume(run)
    assert told.startswith("run/last.ckpt: holds only weights: resume from last.ckpt, or start a new run")
    assert "--model.init_args.init_from run/last.ckpt" in told


@pytest.mark.parametrize("name", ["last", "best"])
def test_where_there_is_no_checkpoint_it_is_said(name):
    told = refused(*FIT, "--run", "run", "--ckpt_path", name)
    assert told == f"run/{name}.ckpt: there is no such checkpoint; qra fit writes it, after an epoch"
    assert not Path("run").exists()


def test_a_checkpoint_of_an_earlier_version_that_names_no_settings_goes_on(run):
    content = torch.load(run / "last.ckpt", weights_only=True)
    del content["training"]
    torch.save(content, run / "last.ckpt")
    command = [*FIT, "--model.init_args.val_attack.steps", 1, "--trainer.max_epochs", 2, "--run", run]
    output, code = qra(*command, "--ckpt_path", "last")
    assert code == 0, output
