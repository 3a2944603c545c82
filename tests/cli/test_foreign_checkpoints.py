"""Files of others on the command line: usual checkpoints, hostile ones, results with names that draw."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import LOGGED, NETWORK, TINY, TINY_FIT, pipeline, qra, refused, teacher

import qra as package
from qra.models import ResNet

pytestmark = pytest.mark.filterwarnings("ignore:.*is not robust")

TEST = [*pipeline("float-plain"), *TINY, *NETWORK]
FIT = [*pipeline("float-plain"), *TINY_FIT, *NETWORK, "--trainer.max_epochs", 1, "--model.init_args.val_attack", "null"]


def small():
    """The network of ``NETWORK``."""
    return ResNet([1, 1], [4, 8])


@pytest.fixture
def public():
    """What a public repository might hold: bare weights under a wrapper's names, and nothing else."""
    torch.manual_seed(5)  # not that of the commands
    state = {f"module.{name}": value for name, value in small().state_dict().items() if "num_batches" not in name}
    torch.save({"epoch": 9, "net": state, "net_ema": {name: value + 1 for name, value in state.items()}}, "public.pth")
    torch.save({"net": state, "global_step": 2**70}, "one.pth")  # more than loggers count


def test_a_public_checkpoint_is_tested(public, caplog):
    output, code = qra("test", *TEST, *LOGGED, "--ckpt_path", "one.pth", "--run", "here")
    assert code == 0, output
    assert "took the weights under net; removed module. from their names" in caplog.text
    result = json.loads(Path("here/result.json").read_text())
    assert result["outputs"] == 10
    assert result["attack_copy"]["kind"] == "folded"


def test_a_checkpoint_whose_logits_are_no_numbers_is_refused():
    state = small().state_dict()
    torch.save({"state_dict": {**state, "normalize.std": 0 * state["normalize.std"]}}, "zero.pth")
    assert "logits for two images of the data are not finite" in refused(
        "test", *TEST, "--ckpt_path", "zero.pth", "--run", "here"
    )
    assert not Path("here").exists()


def test_where_two_places_fit_weights_key_chooses(public):
    assert "fit under net and under net_ema: choose by --weights_key" in refused(
        "test", *TEST, "--ckpt_path", "public.pth", "--run", "here"
    )
    output, code = qra("test", *TEST, "--ckpt_path", "public.pth", "--run", "here", "--weights_key", "net_ema")
    assert code == 0, output


@pytest.mark.slow
def test_training_starts_from_a_public_checkpoint(public):
    start = ["--model.init_args.init_from", "public.pth", "--weights_key", "net", "--trainer.limit_train_batches", 1]
    output, code = qra("fit", *FIT, *start, "--run", "here")
    assert code == 0, output
    saved, begun = package.load("here/best.ckpt"), torch.load("public.pth", weights_only=True)["net"]
    assert torch.allclose(saved.conv1.weight, begun["module.conv1.weight"], atol=0.05)
    assert not torch.allclose(small().conv1.weight, begun["module.conv1.weight"], atol=0.05)
    output, code = qra("test", "--ckpt_path", "here/best.ckpt", "--evaluation.n", 4, "--evaluation.steps", 1)
    assert code == 0, output


@pytest.mark.slow
def test_a_public_checkpoint_is_a_teacher(public):
    network = [*NETWORK, "--trainer.callbacks.network", NETWORK[-1], "--trainer.max_epochs", 1]
    output, code = qra("fit", *pipeline("float-transfer"), *TINY_FIT, *teacher("one.pth"), *network, "--run", "here")
    assert code == 0, output


def test_a_checkpoint_without_a_training_is_no_one_to_go_on_with(public):
    reason = refused("fit", *FIT, "--ckpt_path", "one.pth", "--run", "here")
    assert "init_from" in reason


def hostile(run, change):
    """The run's last checkpoint, changed."""
    content = torch.load(run / "last.ckpt", weights_only=True)
    change(content)
    torch.save(content, "hostile.ckpt")
    return ["--ckpt_path", "hostile.ckpt", "--trainer.max_epochs", 3]


def test_going_on_with_a_foreign_checkpoint_deletes_nothing(plain_run):
    run = Path(shutil.copytree(plain_run, "run"))
    precious = [Path("precious"), Path("run/precious"), Path("run/best.ckpt.d")]
    for path in precious:
        path.mkdir()
    (run / "notes.ckpt").write_text("mine")

    def change(content):
        worst = torch.tensor(-1.0)
        for key, state in content["callbacks"].items():
            if "ModelCheckpoint" in key:
                targets = [
                    f"{run.resolve()}/../precious",
                    str(run / "precious"),
                    str(run / "notes.ckpt"),
                    "/etc/passwd",
                ]
                state.update(
                    dirpath=str(run.resolve()), best_k_models=dict.fromkeys(targets, worst), best_model_path=targets[0],
                    kth_best_model_path=targets[0], last_model_path=targets[2], kth_value=worst, best_model_score=worst,
                )  # fmt: skip

    output, code = qra("fit", *pipeline("float-plain"), *TINY_FIT, *NETWORK, "--run", run, *hostile(run, change))
    assert code == 0, output
    assert all(path.is_dir() for path in precious)
    assert (run / "notes.ckpt").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("states", [3, {"TeacherDistillation": 3}, {"EarlyStopping": None}])
def test_states_of_callbacks_that_are_none_are_refused(plain_run, states):
    arguments = hostile(plain_run, lambda content: content.update(callbacks=states))
    run = shutil.copytree(plain_run, "run")
    assert "callbacks is not a mapping of states" in refused(
        "fit", *pipeline("float-plain"), *TINY_FIT, *NETWORK, "--run", run, *arguments
    )


def test_pipes_in_the_place_of_files_are_refused():
    os.mkfifo("pipe")
    assert "pipe: is not a regular file" in refused("test", *TEST, "--ckpt_path", "pipe", "--run", "here")
    Path("run").mkdir()
    os.mkfifo("run/result.json")
    assert "result.json: is not a regular file" in refused("compare", "run")


RESULT = {"schema": 1, "data": {"sha256": "a"}, "checkpoint": None}


def result(run, outcomes, right=()):
    Path(run).mkdir()
    (Path(run) / "result.json").write_text(json.dumps({**RESULT, "outcomes": outcomes}))
    arrays = {f"{name}.correct": np.array(right, bool) for name in outcomes}
    arrays |= {f"{name}.indices": np.arange(len(right)) for name in outcomes}
    np.savez(Path(run) / "correct.npz", **arrays)
    return run


def test_names_from_files_are_no_markup():
    outcomes = {"[red]x[/blue]": {"accuracy": 0.5, "n": 2}, "[link=https://a.b]c": {"accuracy": 0.5, "n": 2}}
    runs = [result(run, outcomes, [True, False]) for run in ("[bold]a", "b")]
    output, code = qra("compare", *runs)
    assert code == 0, output
    assert "[red]x[/blue]" in output
    assert "\x1b]8" not in output


def test_compare_believes_no_examples_that_contradict_the_result():
    a, b = (result(run, {"clean": {"accuracy": 0.5, "n": 2}}, right) for run, right in (("a", [1, 0]), ("b", [1, 1])))
    assert "b/correct.npz: contradicts result.json about clean" in refused("compare", a, b)


@pytest.mark.parametrize(
    "summary", [{}, {"accuracy": 2, "n": 3}, {"accuracy": "x", "n": 3}, 3, {"accuracy": 0.5, "n": 0}]
)
def test_compare_refuses_outcomes_that_cannot_be(summary):
    assert "result.json: outcome clean: accuracy" in refused("compare", result("a", {"clean": summary}))


def test_compare_follows_no_link_inside_a_run():
    result("a", {"clean": {"accuracy": 0.5, "n": 2}}, [True, False])
    Path("b").mkdir()
    Path("b/result.json").symlink_to("../a/result.json")
    assert "b/result.json: is a symbolic link" in refused("compare", "b")
