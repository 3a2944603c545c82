"""What a training goes on from has all the parts of its own state, and its settings."""

import copy
import math

import pytest
import torch
from trivial import data, linear, trainer

from qra.callbacks import CheckpointFiles
from qra.describe import differences
from qra.modules import VanillaTraining
from qra.resume import check_resumable
from qra.schedules import Cosine

SETTINGS = {"model": {"class_path": "a.Method", "init_args": {"lr": 0.1, "network": {"class_path": "a.Net"}}}}


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def module(optimizer=sgd, schedule=Cosine()):  # noqa: B008
    return VanillaTraining(linear(), optimizer=optimizer, schedule=schedule)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The content of a checkpoint."""
    path = tmp_path_factory.mktemp("trained") / "last.ckpt"
    run = trainer(max_epochs=1)
    run.fit(module(), data())
    run.save_checkpoint(path)
    return torch.load(path, weights_only=True) | {"training": SETTINGS}


def check(content, settings=SETTINGS, **made):
    check_resumable(content, "last.ckpt", trainer(), module(**made), settings)


def test_a_whole_checkpoint_is_taken(saved):
    check(saved)
    check({key: value for key, value in saved.items() if key != "training"})  # of an earlier version


def test_weights_alone_are_refused(saved):
    content = {key: saved[key] for key in ("state_dict", "epoch", "global_step")}
    with pytest.raises(ValueError, match=r"last\.ckpt: holds only weights: resume from last\.ckpt, or .*init_from"):
        check(content)


def test_no_training_state_is_read_for_a_test(saved, tmp_path):
    torch.save(saved, tmp_path / "last.ckpt")
    test, resumed = (CheckpointFiles(resume).load_checkpoint(tmp_path / "last.ckpt") for resume in (False, True))
    assert resumed.keys() - test.keys() >= {"callbacks", "optimizer_states", "lr_schedulers", "loops"}
    assert (test["epoch"], resumed["epoch"]) == (0, 1)


def group(content):
    return content["optimizer_states"][0]["param_groups"][0]


def memory(content):
    return content["optimizer_states"][0]["state"]


def replace_memory(content, change):
    memory(content)[0]["momentum_buffer"] = change(memory(content)[0]["momentum_buffer"])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda c: c.pop("loops"), "loops is missing"),
        (lambda c: c["loops"]["fit_loop"].clear(), "loops.fit_loop.state_dict is missing"),
        (lambda c: c["loops"]["fit_loop"]["epoch_progress"]["current"].update(processed="x"), "processed is x"),
        (lambda c: c["loops"]["fit_loop"]["epoch_progress"]["total"].update(ready=2**70), "total.ready is 11805"),
        (lambda c: c.update(epoch="x"), "epoch is not a number of epochs"),
        (lambda c: c.update(global_step=-1), "global_step is not a number of steps"),
        (lambda c: c.pop("pytorch-lightning_version"), "names no version of Lightning"),
        (lambda c: c.update(callbacks=[]), "callbacks is not a mapping of states"),
        (lambda c: c.update(rng_state=torch.zeros(3, dtype=torch.uint8)), "rng_state is not a state"),
        (lambda c: c.update(optimizer_states=[]), "optimizer_states is not the state of one optimizer"),
        (lambda c: c.update(optimizer_states=[{}]), "optimizer_states is not the state of one optimizer"),
        (lambda c: memory(c).clear(), "optimizer_states is empty"),
        (lambda c: memory(c)[0].clear(), "optimizer_states is from another optimizer"),
        (lambda c: memory(c)[0].update(momentum_buffer=torch.zeros(1)), "momentum_buffer of parameter 0 has another"),
        *(
            (lambda c, change=change: replace_memory(c, change), "momentum_buffer of parameter 0 is not a plain tensor")
            for change in (torch.Tensor.to_sparse, lambda v: v.to("meta"), lambda v: v.new_zeros(1).expand(v.shape))
        ),
        (lambda c: group(c)["params"].pop(), "another number of parameters"),
        (lambda c: group(c).pop("nesterov"), "has no nesterov"),
        (lambda c: c.update(lr_schedulers=[]), "lr_schedulers is not the state of one schedule"),
        (lambda c: c["lr_schedulers"][0].pop("last_epoch"), "lr_schedulers has no last_epoch"),
        (lambda c: c["lr_schedulers"][0].update(last_epoch="x"), "lr_schedulers.last_epoch is x"),
        (lambda c: c["lr_schedulers"][0].update(base_lrs=[math.nan]), "lr_schedulers.base_lrs is nan"),
        (lambda c: c["lr_schedulers"][0].update(step=3), "lr_schedulers has step, which is not part of its state"),
        (lambda c: group(c).update(lr="x"), "param_groups.lr is x"),
        (lambda c: group(c).update(lr=math.nan), "param_groups.lr is nan"),
        (
            lambda c: memory(c)[0]["momentum_buffer"].fill_(math.nan),
            "momentum_buffer of parameter 0 holds values that are not",
        ),
        (lambda c: c["rng_state"].zero_(), "rng_state is not a state"),
        (
            lambda c: c.update({"pytorch-lightning_version": "1.9.5"}),
            "names no version of Lightning, or one before 2",
        ),
    ],
)
def test_a_damaged_state_is_refused_by_name(saved, damage, reason):
    content = copy.deepcopy(saved)
    damage(content)
    with pytest.raises(ValueError, match=rf"^last\.ckpt: training cannot be resumed from it, because .*{reason}"):
        check(content)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ({"optimizer": torch.optim.Adam}, "from another optimizer: it has no betas"),
        ({"schedule": None}, "lr_schedulers is not the state of no schedule"),
        ({"optimizer": lambda parameters: torch.optim.SGD(list(parameters)[:1], lr=0.1)}, "number of parameters"),
    ],
)
def test_the_state_of_another_optimizer_or_schedule_is_refused(saved, made, reason):
    with pytest.raises(ValueError, match=reason):
        check(saved, **made)


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.LBFGS, lambda p: torch.optim.SGD(p, lr=0.05)])
def test_whatever_optimizer_trained_it_goes_on(make, tmp_path):
    run = trainer(max_epochs=1)
    run.fit(module(make), data())
    run.save_checkpoint(tmp_path / "last.ckpt")
    check(torch.load(tmp_path / "last.ckpt", weights_only=True), optimizer=make)


def test_the_state_that_was_checked_can_be_loaded(saved, tmp_path):
    torch.save(saved, tmp_path / "last.ckpt")
    run = trainer(max_epochs=2)
    run.fit(module(), data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert run.current_epoch == 2


def test_settings_that_differ_are_named_by_their_keys():
    expected = copy.deepcopy(SETTINGS)
    expected["model"]["init_args"]["lr"] = 0.2
    assert list(differences(SETTINGS, expected, shared=True)) == ["model.lr was 0.1 and is 0.2"]
    expected["model"]["init_args"]["network"]["class_path"] = "a.Other"
    assert len(list(differences(SETTINGS, expected, shared=True))) == 2
    expected["model"]["class_path"] = "a.Other"
    assert list(differences(SETTINGS, expected, shared=True)) == ["model was a.Method and is a.Other"]


def test_more_epochs_are_no_other_setting_but_a_schedule_that_spans_them_is_told(saved, capsys):
    content = saved | {"training": SETTINGS | {"max_epochs": 1}}
    check(content, SETTINGS | {"max_epochs": 1})
    assert "spans" not in capsys.readouterr().out
    check(content, SETTINGS | {"max_epochs": 3})
    assert "spans 3 epochs from here on, and spanned 1" in capsys.readouterr().out


def test_settings_that_only_one_version_knows_are_not_compared():
    expected = copy.deepcopy(SETTINGS)
    expected["model"]["init_args"]["new"] = expected["model"]["init_args"].pop("lr")
    assert not list(differences(SETTINGS, expected, shared=True))
