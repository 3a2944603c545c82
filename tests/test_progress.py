"""Estimates of the time left are not wild, and are said in readable units."""

from types import SimpleNamespace

import pytest
import torch

from qra import progress
from qra.progress import ChunkProgress, EvaluationProgress, time_left


@pytest.mark.parametrize(
    ("spent", "done", "left", "said"),
    [
        (1.0, 0.0001, 0.9999, ""),  # would be 166 minutes
        (60.0, 0.01, 9.99, ""),
        (60.0, 0.5, 9.5, "at most 19 min left"),
        (120.0, 2.0, 2.0, "about 2 min 00 s left"),
        (3.0, 1.0, 0.0, "about 0.0 s left"),
    ],
)
def test_a_time_is_told_once_enough_is_done(spent, done, left, said):
    assert time_left(spent, done, left) == said


def test_the_first_iterations_of_an_attack_tell_no_time(capsys):
    with ChunkProgress("AutoAttack", 4, shown=True) as shown:
        shown.start(100)
        shown.watch("APGD-CE", 1e-5, 90)
    line = capsys.readouterr().out
    assert "90.0% correct" in line
    assert "left" not in line


def test_a_process_that_has_none_of_the_examples_goes_on():
    with EvaluationProgress(shown=False) as bar:
        bar.start("PGD", 1)
        bar.advance(torch.ones(0, dtype=torch.bool))


@pytest.mark.parametrize("begins", ["on_train_epoch_start", "on_train_start"])  # the latter alone in its middle
def test_an_epoch_tells_minutes_and_seconds(begins, monkeypatch, capsys):
    metrics = {"val/clean_acc": torch.tensor(0.5)}
    trainer = SimpleNamespace(current_epoch=0, max_epochs=3, callback_metrics=metrics)
    clock = iter((0.0, 95.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    lines = progress.EpochLines()
    getattr(lines, begins)(trainer, None)
    lines.on_train_epoch_end(trainer, None)
    assert "95 s  about 3 min 10 s left" in capsys.readouterr().out


def test_the_bar_fetches_the_loss_of_a_step_only_when_it_is_logged(monkeypatch):
    monkeypatch.setattr(progress.RichProgressBar, "get_metrics", lambda *_: {"v_num": 3})
    bar, shown = progress.LossBars(), []
    for step in range(1, 6):
        losses = {"train/loss_step": torch.tensor(step / 2)}
        trainer = SimpleNamespace(training=True, global_step=step, log_every_n_steps=2, logged_metrics=losses)
        shown.append(bar.get_metrics(trainer, None))
    loss = "train/loss_step"
    assert shown == [{"v_num": 3}, *({"v_num": 3, loss: said} for said in ("1.000", "1.000", "2.000", "2.000"))]
    losses = {loss: torch.tensor(9.0)}
    validating = SimpleNamespace(training=False, global_step=6, log_every_n_steps=2, logged_metrics=losses)
    assert bar.get_metrics(validating, None)[loss] == "2.000"
