"""Callbacks, optimizers and limits of Lightning's own, as its users combine them."""

from pathlib import Path

import pytest
import torch
from commands import NETWORK, TINY_FIT, pipeline, qra, refused
from lightning.pytorch.callbacks.timer import Interval

from qra.front.run_config import with_absolute_paths, without_notes
from qra.runs import completion
from qra.runs.completion import Training

LIGHTNING = "lightning.pytorch.callbacks"  # in full: classes of other tests may be found by short names
FIT = ["fit", *pipeline("float-plain"), *TINY_FIT, *NETWORK, "--model.val_attack", "null", "--run", "run"]


def fit(*options):
    output, code = qra(*FIT, *options)
    assert code == 0, output
    return output


def own(*options):
    return ["fit", "--model", *options, *NETWORK, *TINY_FIT, "--model.val_attack", "null", "--run", "run"]


def steps():
    return torch.load("run/last.ckpt", weights_only=True)["global_step"]


def test_a_training_that_its_steps_have_ended_goes_on_with_more():
    fit("--trainer.max_steps", 2)
    assert completion.read(Path("run")) == Training(True, 1, 2, validated=False)
    fit("--trainer.max_steps", 4, "--ckpt_path", "last")
    assert steps() == 4


def test_a_checkpoint_in_the_middle_of_an_epoch_leads_to_the_weights_of_a_training_that_never_stopped():
    each_second = ["--trainer.callbacks+", f"{LIGHTNING}.ModelCheckpoint", "--trainer.callbacks.every_n_train_steps", 2,
                   "--trainer.callbacks.save_top_k", "-1"]  # fmt: skip
    fit(*each_second)
    fit(*each_second, "--ckpt_path", "run/checkpoints/epoch=1-step=4.ckpt", "--run", "on")
    whole, resumed = (torch.load(run / "last.ckpt", weights_only=True) for run in (Path("run"), Path("on")))
    assert resumed["global_step"] == 6
    assert all(torch.equal(value, resumed["state_dict"][name]) for name, value in whole["state_dict"].items())


def test_a_training_that_a_callback_has_ended_stays_ended_and_says_so():
    stop = ["--trainer.callbacks+", "own.Stop"]
    fit(*stop)
    assert completion.read(Path("run")) == Training(True, 1, 2, stopped=True)
    said = fit(*stop, "--ckpt_path", "last")
    assert "a callback ended this training after 1 of 2 epochs, so nothing is left to train" in said
    assert steps() == 3


def test_a_checkpoint_callback_of_ones_own_is_kept_apart_from_those_of_the_run():
    own = f"{LIGHTNING}.ModelCheckpoint"
    kept = f"[{{class_path: {own}, init_args: {{monitor: val/clean_acc, mode: max}}}}, {own}]"
    fit("--trainer.callbacks", kept, "--trainer.max_epochs", 1)
    assert {path.name for path in Path("run").rglob("*.ckpt")} >= {"best.ckpt", "last.ckpt", "epoch=0-step=3.ckpt"}
    output, code = qra("validate", "--ckpt_path", "run/best.ckpt")
    assert code == 0, output


def test_a_progress_bar_of_ones_own_takes_the_place_of_the_usual_one():
    fit(
        "--trainer.callbacks+",
        f"{LIGHTNING}.TQDMProgressBar",
        "--trainer.enable_progress_bar",
        "true",
        "--trainer.max_steps",
        1,
    )


def test_settings_of_lightnings_callbacks_that_yaml_does_not_know_can_be_saved():
    settings = {"scheduling": {0: 1, 4: 2}, "interval": Interval.step}
    saved = with_absolute_paths(without_notes(settings))
    assert saved == {"scheduling": {0: 1, 4: 2}, "interval": "step"}
    assert type(saved["interval"]) is str


def test_a_method_with_an_optimizer_and_a_schedule_of_its_own_goes_on():
    command = own("own.OnPlateau")
    assert qra(*command, "--trainer.max_epochs", 1)[1] == 0
    output, code = qra(*command, "--ckpt_path", "last")
    assert code == 0, output
    assert steps() == 6


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--trainer.callbacks+", f"{LIGHTNING}.StochasticWeightAveraging", "--trainer.callbacks.swa_lrs", "0.1"],
         "StochasticWeightAveraging computes its average after the last checkpoint is written"),
        (["--trainer.max_epochs", "-1", "--trainer.max_time", "00:00:01:00"],
         "model.schedule spans the training, but neither trainer.max_epochs nor trainer.max_steps says"),
        (["--model.schedule", "torch.optim.lr_scheduler.CosineAnnealingLR"], "give qra.schedules.OneCycle"),
    ],
    ids=["averaging too late", "no end", "schedule"],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_the_way_out(options, reason):
    assert reason in refused(*FIT, *options)
    assert not Path("run").exists()


def test_a_method_that_does_not_say_what_its_network_is_is_named():
    assert "but own.Untyped gives it no type: annotate it there as torch.nn.Module" in refused(*own("own.Untyped"))
