"""Attacks where gradients or logits are infinite or no numbers, in half precision, or equal."""

import pytest
import torch
from small_networks import CLASSES, SmallNet, draw_images, predict
from torch import nn

from qra.attacks import APGD, FAB, FMN, PGD, AttackState, Polish, Square
from qra.attacks.state import margin_of
from qra.evaluation.robustness import attack_examples
from qra.types import Batch


class Rooted(nn.Module):
    """Infinitely steep at black pixels."""

    def __init__(self):
        super().__init__()
        self.network = SmallNet()

    def forward(self, x):
        return self.network(x.sqrt())


@pytest.mark.parametrize(
    "attack",
    [
        PGD(0.05, 0.0125, 8, early_stop=True),
        PGD(0.4, 0.1, 8, norm="l2"),
        APGD(0.4, "l2", steps=8),
        APGD(0.4, "l2", "targeted_dlr", steps=8),
        FAB(0.05, steps=8),
        FAB(0.4, "l2", steps=8),
        FMN(0.05, steps=30),
        FMN(0.4, "l2", steps=30),
    ],
    ids=lambda attack: f"{attack.key}-{attack.norm}",
)
def test_a_pixel_of_infinite_slope_does_not_stop_an_attack(attack):
    network, x = Rooted().eval(), draw_images(0, 12)
    x[:, :, 0, 0] = 0
    found = attack_examples(network, attack, Batch(x, predict(network, x), torch.arange(12)))
    assert int(found.correct.sum()) < 8
    assert found.x_adv.isfinite().all()


class Breaking(nn.Module):
    """Right about all images, but that it says nothing of those whose first pixel has become lighter."""

    def forward(self, x):
        logits = nn.functional.one_hot(torch.ones(len(x), dtype=torch.int64), CLASSES).to(x)
        return logits.where(x[:, 0, 0, :1] <= 0.5, torch.nan)


@pytest.mark.parametrize("attack", [Square(0.1, queries=40), Polish(0.1, queries=200)])
def test_a_random_search_finds_where_a_network_says_nothing(attack):
    batch = Batch(torch.full((4, 3, 6, 6), 0.5), torch.ones(4, dtype=torch.int64), torch.arange(4))
    assert not attack_examples(Breaking(), attack, batch).correct.any()


def test_logits_that_are_no_numbers_have_the_lowest_margin():
    logits = torch.tensor([[1.0, 3.0], [torch.nan, 0.0], [torch.inf, 0.0]])
    assert margin_of(logits, torch.tensor([1, 1, 0])).tolist() == [2, -torch.inf, -torch.inf]


def test_a_label_among_equals_is_no_target():
    class Undecided(nn.Module):
        def forward(self, x):
            return torch.tensor([2.0, 5, 5, 5, 1]).expand(len(x), -1)

    y = torch.ones(3, dtype=torch.int64)
    state = AttackState(Undecided(), torch.zeros(3, 3, 2, 2), y)
    ranks = torch.stack([state.targets(torch.arange(3), rank) for rank in range(1, 6)])
    assert torch.equal(ranks[0], y)
    assert ranks[1:, 0].sort().values.tolist() == [0, 2, 3, 4]


def test_apgd_computes_its_losses_in_float32_at_least():
    class Coarse(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :CLASSES].to(torch.bfloat16)

    seen = []

    class Recorded(APGD):
        def objective(self, logits, y, target):
            seen.append(logits.dtype)
            return super().objective(logits, y, target)

    x = draw_images(0).float()
    Recorded(0.001, loss="dlr", steps=2)(Coarse(), x, predict(Coarse(), x))
    assert set(seen) == {torch.float32}
