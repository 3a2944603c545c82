import pytest
import torch
from trivial import data, linear, sgd, trainer

from qra.attacks import PGD
from qra.callbacks import CatastrophicOverfittingGuard
from qra.modules import VanillaTraining


class Collapsing(VanillaTraining):
    """Learns for two epochs and then unlearns."""

    def training_loss(self, batch):
        loss = super().training_loss(batch)
        return loss if self.current_epoch < 2 else -self.by * loss


def collapsing(by=1):
    module = Collapsing(linear(), optimizer=sgd, val_attack=None)
    module.by = by
    return module


def test_a_collapse_stops_training_and_restores_the_last_good_weights():
    module = collapsing()
    kept = {}

    class Keep(CatastrophicOverfittingGuard):
        def on_train_epoch_end(self, trainer, pl_module):
            kept[trainer.current_epoch] = {k: v.clone() for k, v in pl_module.network.state_dict().items()}
            super().on_train_epoch_end(trainer, pl_module)

    run = trainer(max_epochs=9, callbacks=[Keep()])
    with pytest.warns(UserWarning, match="catastrophic overfitting in epoch"):
        run.fit(module, data())
    collapse = run.current_epoch - 1
    assert 2 <= collapse < 8
    assert all(torch.equal(value, kept[collapse - 1][name]) for name, value in module.network.state_dict().items())


def test_a_collapse_right_after_a_resumption_is_noticed(tmp_path):
    first = trainer(max_epochs=2, callbacks=[CatastrophicOverfittingGuard()])
    first.fit(collapsing(), data())
    first.save_checkpoint(tmp_path / "last.ckpt")
    module = collapsing(by=100)
    with pytest.warns(UserWarning, match="catastrophic overfitting in epoch 3"):
        trainer(max_epochs=3, callbacks=[CatastrophicOverfittingGuard()]).fit(
            module, data(), ckpt_path=tmp_path / "last.ckpt"
        )
    good = first.lightning_module.network.state_dict()
    assert all(torch.equal(value, good[name]) for name, value in module.network.state_dict().items())


def test_a_run_without_collapse_is_left_alone():
    run = trainer(max_epochs=3, callbacks=[CatastrophicOverfittingGuard(PGD(steps=2))])
    run.fit(VanillaTraining(linear(), val_attack=None, optimizer=sgd), data())
    assert run.current_epoch == 3
    assert run.callback_metrics["train/guard_acc"] == 1


@pytest.mark.parametrize("drop", [0, 1, -0.2])
def test_a_drop_that_is_no_fraction_is_refused(drop):
    with pytest.raises(ValueError, match=r"drop is .*: it must be above 0 and below 1"):
        CatastrophicOverfittingGuard(drop=drop)
