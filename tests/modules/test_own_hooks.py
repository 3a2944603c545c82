"""A training method of one's own overrides Lightning's hooks as usual, without calling those of the base class."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback, LambdaCallback
from torch.nn import functional as F
from trivial import convolutional, data, linear, trainer

from qra.attacks import PGD
from qra.modules import AdversarialTraining, VanillaTraining
from qra.quant import LSQ, PACT, QuantScheme


class OwnHooks(AdversarialTraining):
    def nothing(self, *_, **__):
        pass

    on_fit_start = on_train_start = on_train_epoch_start = on_train_batch_end = on_train_epoch_end = nothing
    on_validation_start = on_validation_epoch_start = on_validation_epoch_end = on_train_end = teardown = nothing


def metrics(method):
    torch.manual_seed(0)
    scheme = QuantScheme(LSQ(), PACT(), weight_bit_width=4, act_bit_width=4)
    strong = PGD(eps=0.2, step_size=0.1, steps=2)
    module = method(convolutional(), attack=PGD(steps=1), val_attack=strong, scheme=scheme)
    run = trainer()
    run.fit(module, data())
    return dict(run.callback_metrics)


def test_what_the_base_class_needs_in_a_run_is_done_all_the_same():
    assert metrics(OwnHooks) == metrics(AdversarialTraining)


def test_a_callback_of_ones_own_that_is_made_of_functions_stays():
    seen = []
    run = trainer(callbacks=[LambdaCallback(on_train_epoch_start=lambda *_: seen.append(1))], max_epochs=1)
    run.fit(VanillaTraining(linear(), val_attack=None), data())
    assert seen == [1]


def slow(parameters):
    """With the usual rate, all losses are soon 0."""
    return torch.optim.SGD(parameters, lr=1e-3)


class Noted(VanillaTraining):
    def training_loss(self, batch):
        loss = F.cross_entropy(self(batch.x), batch.y)
        self.losses = [*getattr(self, "losses", []), float(loss.detach())]
        return loss


class StopsInTheSecondEpoch(Callback):
    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step == 8  # of 6 an epoch


class SkipsTheRestOfTheSecondEpoch(Noted):
    def on_train_batch_start(self, batch, batch_idx):
        return -1 if self.current_epoch == 1 and batch_idx == 2 else None


class SkipsTheRestOfTheFirstEpoch(Noted):
    def on_train_batch_start(self, batch, batch_idx):
        return -1 if self.current_epoch == 0 and batch_idx == 2 else None


@pytest.mark.parametrize(
    ("method", "callbacks", "first"),
    [
        (Noted, [StopsInTheSecondEpoch()], 6),
        (SkipsTheRestOfTheSecondEpoch, [], 6),
        (SkipsTheRestOfTheFirstEpoch, [], 2),
    ],
)
def test_the_mean_over_an_epoch_that_was_cut_short_is_of_its_own_batches(method, callbacks, first):
    module, run = method(linear(), val_attack=None, optimizer=slow), trainer(callbacks=callbacks)
    run.fit(module, data())
    assert len(module.losses) == 8
    assert float(run.callback_metrics["train/loss"]) == pytest.approx(sum(module.losses[first:]) / (8 - first))


class OwnSteps(Noted):
    def training_step(self, batch, batch_idx):
        loss = self.training_loss(batch)
        self.log_mean("loss", loss, len(batch.y))
        return loss


@pytest.mark.parametrize("method", [Noted, OwnSteps])
def test_the_mean_over_an_epoch_that_is_resumed_within_is_that_of_all_its_batches(method, tmp_path):
    def fit(steps, **settings):
        torch.manual_seed(0)
        module = method(linear(), val_attack=None, optimizer=slow)
        run = trainer(max_epochs=2, max_steps=steps)
        run.fit(module, data(), **settings)
        run.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return module.losses, run.callback_metrics["train/loss"]

    losses, whole = fit(12)
    assert float(whole) == pytest.approx(sum(losses[6:]) / 6)
    fit(8)  # of 6 an epoch
    again, mean = fit(12, ckpt_path=tmp_path / "8.ckpt", weights_only=True)
    assert (again, mean) == (losses[8:], whole)
    old = torch.load(tmp_path / "8.ckpt", weights_only=True)
    del old["callbacks"]["Upkeep"]
    torch.save(old, tmp_path / "old.ckpt")
    _, mean = fit(12, ckpt_path=tmp_path / "old.ckpt", weights_only=True)
    assert float(mean) == pytest.approx(sum(losses[8:]) / 4)


def test_the_mean_over_an_epoch_that_a_callback_would_end_too_early_is_of_all_its_batches():
    module = Noted(linear(), val_attack=None, optimizer=slow)
    run = trainer(callbacks=[StopsInTheSecondEpoch()], min_epochs=2)
    run.fit(module, data())
    assert len(module.losses) == 12
    assert float(run.callback_metrics["train/loss"]) == pytest.approx(sum(module.losses[6:]) / 6)


@pytest.mark.parametrize(
    ("returned", "told"),
    [(None, "a NoneType"), (0.5, "a float"), (torch.ones(8), r"a tensor of shape \(8,\)")],
    ids=["none", "number", "vector"],
)
def test_a_loss_that_is_no_scalar_tensor_is_refused_by_name(returned, told):
    class Own(VanillaTraining):
        def training_loss(self, batch):
            return returned

    with pytest.raises(ValueError, match=f"Own.training_loss returned {told}: it must return a scalar tensor"):
        trainer().fit(Own(linear()), data())
