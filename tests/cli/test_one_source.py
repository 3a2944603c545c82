"""What a command line says once is said once: a whole config replaces, the last of two options counts."""

from pathlib import Path

import pytest
import yaml
from commands import qra
from jsonargparse import Namespace

from qra.front.arguments import prepared
from qra.front.run_config import check_trainer

L2 = "{class_path: qra.attacks.PGD, init_args: {eps: 0.5, norm: l2, restarts: 3}}"
MINE = f"""
trainer:
  callbacks: [{{class_path: qra.callbacks.AttackEvaluation, init_args: {{attack: {L2}}}}}]
data: {{class_path: qra.data.SyntheticDataModule, init_args: {{fraction: 0.1, calibration_size: 7}}}}
model:
  class_path: qra.modules.AdversarialTraining
  init_args: {{network: qra.models.resnet20, attack: {L2}}}
"""
LIGHTNING = {
    "default_root_dir": None,
    "enable_checkpointing": None,
    "inference_mode": False,
    "overfit_batches": 0.0,
    "barebones": False,
    "callbacks": None,
    "max_epochs": 3,
    "max_steps": -1,
    "limit_train_batches": None,
    "limit_val_batches": None,
    "limit_test_batches": None,
    "gradient_clip_val": None,
    "log_every_n_steps": None,
    "min_epochs": None,
    "min_steps": None,
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "val_check_interval": None,
}


@pytest.fixture
def mine():
    Path("mine.yaml").write_text(MINE)
    return "--config", "mine.yaml"


def test_of_what_a_whole_config_replaces_nothing_stays(mine):
    whole = ["--model.attack", "attack/pgd10", "--data", "data/cifar10", "--trainer.callbacks.attack", "attack/pgd3"]
    output, code = qra("fit", *mine, *whole, "--print_config")
    assert code == 0, output
    found = yaml.safe_load(output)
    attacks = found["model"]["init_args"]["attack"], found["trainer"]["callbacks"][0]["init_args"]["attack"]
    assert [(a["init_args"]["norm"], a["init_args"]["restarts"]) for a in attacks] == [("linf", 1), ("linf", 1)]
    data = found["data"]["init_args"]
    assert (data["fraction"], data["calibration_size"]) == (1.0, 512)


def test_options_of_a_part_change_that_part_alone(mine):
    output, code = qra("fit", *mine, "--model.attack.eps", "0.25", "--data.fraction", "0.2", "--print_config")
    assert code == 0, output
    found = yaml.safe_load(output)
    attack, data = found["model"]["init_args"]["attack"]["init_args"], found["data"]["init_args"]
    assert (attack["norm"], attack["restarts"], data["fraction"], data["calibration_size"]) == ("l2", 3, 0.2, 7)


def test_the_last_of_two_checkpoints_says_what_the_model_is():
    for name in "ab":
        Path(name).mkdir()
        Path(name, "best.ckpt").touch()
        Path(name, "config.yaml").write_text("model: {}\n")
    words = prepared(["test", "--ckpt_path", "a/best.ckpt", "--ckpt_path", "b/best.ckpt"])
    assert words[1:3] == ["--config", "b/config.yaml"]


@pytest.mark.parametrize("words", [["--untrained"], ["--untrained", "true"], ["--untrained=true"]])
def test_untrained_means_true_without_a_value(words):
    assert prepared(["test", *words, "--run", "x"])[1:3] == ["--untrained", "true"]


@pytest.mark.parametrize(
    ("setting", "command", "reason"),
    [
        ({"default_root_dir": "here"}, "fit", "trainer.default_root_dir is here: give the directory by --run"),
        ({"enable_checkpointing": False}, "fit", "trainer.enable_checkpointing is false: qra fit keeps best.ckpt"),
        ({"inference_mode": True}, "test", "trainer.inference_mode is true: attacks need gradients"),
        ({"overfit_batches": 1}, "fit", "by --config debug/overfit"),
        ({"callbacks": Namespace(class_path="x")}, "fit", "a list is needed: add it by --trainer.callbacks\\+"),
        ({"max_epochs": 0}, "fit", "trainer.max_epochs is 0, so there is nothing to fit"),
        ({"limit_train_batches": 0.0}, "fit", "trainer.limit_train_batches is 0"),
        ({"limit_test_batches": 0}, "test", "nothing to test"),
        ({"limit_val_batches": 0}, "validate", "nothing to validate"),
        ({"gradient_clip_val": -1.0}, "fit", "gradient_clip_val is -1.0: it must be at least 0"),
        ({"log_every_n_steps": -3}, "fit", "log_every_n_steps is -3: it must be at least 0"),
        ({"accumulate_grad_batches": 0}, "fit", "accumulate_grad_batches is 0: it must be above 0"),
        ({"val_check_interval": 0.0}, "fit", "val_check_interval is 0.0: it must be above 0"),
    ],
)
def test_settings_that_would_be_overruled_or_leave_nothing_to_do_are_refused(setting, command, reason):
    check_trainer(Namespace(trainer=Namespace(LIGHTNING)), command)
    with pytest.raises(ValueError, match=reason):
        check_trainer(Namespace(trainer=Namespace({**LIGHTNING, **setting})), command)


def test_an_unvalidated_training_is_allowed():
    check_trainer(Namespace(trainer=Namespace({**LIGHTNING, "limit_val_batches": 0, "max_epochs": -1})), "fit")
