import math

import pytest
import torch

from qra.modules.means import EpochMeans
from qra.modules.optimizers import FiniteLoss, fuse


def optimizer(**settings):
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1, **settings)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_seen_at_its_step(value):
    watch = FiniteLoss(optimizer())
    assert watch.look(4, torch.tensor(1.0)) is None
    step, loss = watch.look(5, torch.tensor(value))
    assert step == 5
    assert not math.isfinite(loss)
    assert watch.first_bad() is None


def test_an_optimizer_on_the_cpu_is_left_alone():
    made = optimizer()
    fuse(made, torch.device("cpu"))
    assert made.param_groups[0]["fused"] is None


def test_an_optimizer_on_a_gpu_is_fused_unless_it_was_told_otherwise():
    plain, told, foreach = optimizer(), optimizer(fused=False), optimizer(foreach=True)
    for made in (plain, told, foreach):
        fuse(made, torch.device("cuda"))
    assert [made.param_groups[0]["fused"] for made in (plain, told, foreach)] == [True, False, None]


def test_means_are_of_all_examples_since_the_last_time():
    means = EpochMeans()
    means.add("loss", torch.tensor(1.0), 3)
    means.add("loss", torch.tensor(5.0), 1)
    assert means.news() == {"loss": 2.0}
    assert means.news() == {}


@pytest.mark.parametrize("batches", [1, EpochMeans.PERIOD, EpochMeans.PERIOD + 3])
def test_accuracies_are_means_over_all_examples_however_many_batches_are_looked_at_together(batches):
    means = EpochMeans()
    logits = torch.randn(batches, 6, 4)
    logits[0, 0, 0] = torch.nan  # predicts nothing
    y = torch.randint(0, 4, (batches, 6))
    for batch, labels in zip(logits.clone(), y.clone(), strict=True):
        means.add_accuracy("clean_acc", batch, labels)
        batch.zero_()  # whose it is may do so
        labels.zero_()
    means.add_accuracy("clean_acc", torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([0]))
    right = logits.argmax(2) == y
    right[0, 0] = False
    assert means.news()["clean_acc"].item() == pytest.approx((right.sum().item() + 1) / (right.numel() + 1))
    assert means.news() == {}


def test_few_large_logits_are_kept(monkeypatch):
    monkeypatch.setattr(EpochMeans, "LARGEST", 12)
    means = EpochMeans()
    for kept in (1, 2, 0, 1):
        means.add_accuracy("clean_acc", torch.randn(2, 2), torch.zeros(2, dtype=torch.int64))
        assert sum(map(len, means._logits.values())) == kept
