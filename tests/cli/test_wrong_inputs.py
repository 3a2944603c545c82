"""Wrong inputs end in one line that says what to do, with exit code 2 and nothing written."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from commands import CONFIGS, TINY, TINY_FIT, pipeline, refused

AT = [*pipeline("float-at"), *TINY_FIT]
ATTACK = "--model.init_args.attack.init_args"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model.init_args.nonsense", "3"], "unknown key 'nonsense'"),
        (["--trainer.nonsense", "3"], "unrecognized arguments: --trainer.nonsense"),
        (["--model.class_path", "qra.modules.Nonsense"], "has no attribute 'Nonsense'"),
        (["--model.init_args.attack", "configs/attack/none.yaml"], "there is no config file configs/attack/none.yaml"),
        ([f"{ATTACK}.eps", "8"], "eps is 8, but pixels are in [0, 1]: did you mean 8/255?"),
        ([f"{ATTACK}.eps", "eight"], "eps: 'eight' is not a length in pixels"),
        ([f"{ATTACK}.steps", "-3"], "steps is -3"),
        ([f"{ATTACK}.norm", "l7"], "norm"),
        (["--trainer.max_epochs", "many"], "trainer.max_epochs: expected int, got many"),
        (["--model.init_args.val_attack", "null"], "val_attack is none"),
        (["--data.init_args.fraction", "0"], "fraction is 0"),
        (["--data.init_args.val_size", "80"], "val_size is 80"),
        (["--data.init_args.batch_size", "4000"], "batch_size is 4000"),
        (["--data.init_args.batch_size", "0"], "batch_size is 0"),
        (["--evaluation.n", "0"], "n is 0"),
        (["--trainer.accelerator", "gpu", "--trainer.devices", "99"], "qra doctor shows the devices"),
        (["--ckpt_path", "none.ckpt"], "none.ckpt: there is no such checkpoint"),
        (["--model.init_args.init_from", "none.ckpt"], "none.ckpt: there is no such checkpoint"),
        (["--data", str(CONFIGS / "data/image_folder.yaml"), "--data.init_args.root", "nowhere"], "nowhere"),
        (["--data", str(CONFIGS / "data/cifar10.yaml")], "CIFAR-10"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_named(arguments, reason):
    assert reason in refused("fit", *AT, *arguments)
    assert not list(Path().iterdir())


def test_a_wrong_config_is_named():
    assert "nowhere.yaml" in refused("fit", "--config", "nowhere.yaml")
    Path("wrong.yaml").write_text("data: ../data/nowhere.yaml\n")
    assert "data: there is no config file ../data/nowhere.yaml" in refused("fit", "--config", "wrong.yaml")


def test_an_unknown_command_is_refused():
    assert "invalid choice: 'train'" in refused("train")


def test_a_run_without_a_name_is_refused():
    words = ["--model", "qra.modules.VanillaTraining", "--model.network", "qra.models.resnet20"]
    assert "give --run" in refused("fit", *TINY, *words)


def test_a_taken_run_directory_is_refused_and_kept(plain_run):
    before = (plain_run / "last.ckpt").stat().st_mtime_ns
    assert "go on with it by --ckpt_path last" in refused(
        "fit", *pipeline("float-plain"), *TINY_FIT, "--run", plain_run
    )
    assert (plain_run / "last.ckpt").stat().st_mtime_ns == before


@pytest.fixture
def copied(plain_run):
    return Path(shutil.copy(plain_run / "best.ckpt", "copied.ckpt"))


def test_a_checkpoint_of_another_network_is_refused(copied):
    network = CONFIGS / "network/resnet18.yaml"
    arguments = [*pipeline("float-plain"), *TINY, "--model.init_args.network", network, "--ckpt_path", copied]
    assert "copied.ckpt: is a checkpoint of another network" in refused("test", *arguments)


def test_a_truncated_checkpoint_is_refused(copied):
    copied.write_bytes(copied.read_bytes()[:5000])
    assert "copied.ckpt: " in refused("test", *pipeline("float-plain"), *TINY, "--ckpt_path", copied)


class Payload:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_a_checkpoint_with_pickled_code_is_refused_and_the_code_not_run(copied):
    content = torch.load(copied, weights_only=True)
    torch.save({**content, "surprise": Payload()}, copied)
    assert "holds pickled objects" in refused("test", *pipeline("float-plain"), *TINY, "--ckpt_path", copied)
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "no result"), ("{", "cut short"), ("{}", "no result of schema")]
)
def test_compare_refuses_what_is_no_result(content, reason):
    Path("run").mkdir()
    if content is not None:
        Path("run/result.json").write_text(content)
    assert reason in refused("compare", "run")


def test_weights_of_another_network_are_no_start(copied):
    network = CONFIGS / "network/resnet18.yaml"
    reason = refused("fit", *AT, "--model.init_args.network", network, "--model.init_args.init_from", copied)
    assert "copied.ckpt: is a checkpoint of another network" in reason
    assert not Path("runs").exists()
