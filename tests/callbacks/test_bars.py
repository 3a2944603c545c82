"""What a training says of its progress: an epoch's line, and the loss beside a bar."""

from types import SimpleNamespace

import pytest
import torch

from qra.callbacks import bars


@pytest.mark.parametrize("begins", ["on_train_epoch_start", "on_train_start"])  # the latter alone in its middle
def test_an_epoch_tells_minutes_and_seconds(begins, monkeypatch, capsys):
    metrics = {"val/clean_acc": torch.tensor(0.5)}
    trainer = SimpleNamespace(current_epoch=0, max_epochs=3, callback_metrics=metrics)
    clock = iter((0.0, 95.0))
    monkeypatch.setattr(bars.time, "monotonic", lambda: next(clock))
    lines = bars.EpochLines()
    getattr(lines, begins)(trainer, None)
    lines.on_train_epoch_end(trainer, None)
    assert "95 s  about 3 min 10 s left" in capsys.readouterr().out


def test_the_bar_fetches_the_loss_of_a_step_only_when_it_is_logged(monkeypatch):
    monkeypatch.setattr(bars.RichProgressBar, "get_metrics", lambda *_: {"v_num": 3})
    bar, shown = bars.LossBars(), []
    for step in range(1, 6):
        losses = {"train/loss_step": torch.tensor(step / 2)}
        trainer = SimpleNamespace(training=True, global_step=step, log_every_n_steps=2, logged_metrics=losses)
        shown.append(bar.get_metrics(trainer, None))
    loss = "train/loss_step"
    assert shown == [{"v_num": 3}, *({"v_num": 3, loss: said} for said in ("1.000", "1.000", "2.000", "2.000"))]
    losses = {loss: torch.tensor(9.0)}
    validating = SimpleNamespace(training=False, global_step=6, log_every_n_steps=2, logged_metrics=losses)
    assert bar.get_metrics(validating, None)[loss] == "2.000"
