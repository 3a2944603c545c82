"""Attacks take pixels in [0, 1] and labels that are classes; what is no number predicts nothing."""

import dataclasses

import pytest
import torch
from torch import nn

from qra.attacks import FGSM, PGD, AutoAttack, Square
from qra.evaluation.robustness import is_correct, robust
from qra.losses import prediction

NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(3 * 36, 5))
X, Y = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 4])
ATTACKS = {
    "pgd": PGD(steps=2),
    "early": PGD(steps=2, early_stop=True),
    "fgsm": FGSM(),
    "square": Square(queries=5),
    "autoattack": AutoAttack(steps=2, queries=5),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        (2 * X - 1, Y, r"pixels range from -.* to .*: an attack needs them in \[0, 1\]"),
        (255 * X, Y, "divide bytes by 255"),
        (X + 0.01, Y, "pixels range from"),
        (X * torch.nan, Y, "pixels range from nan"),
        (X, Y - 1, "the smallest label is -1"),
        (X, Y.float(), "y is torch.float32: labels must be integers"),
        (X, Y + 1, "the largest label is 5, but the network has the classes 0 to 4"),
    ],
)
def test_pixels_and_labels_out_of_range_are_refused(attack, x, y, reason):
    with pytest.raises(ValueError, match=reason):
        dataclasses.replace(attack)(NETWORK, x, y)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_labels_are_whole_numbers_of_any_type(attack, dtype):
    assert torch.equal(attack(NETWORK, X, Y.to(dtype)), attack(NETWORK, X, Y))


def test_pixels_are_looked_at_in_every_call_on_the_processor():
    attack = PGD(steps=1)
    attack(NETWORK, X, Y)
    with pytest.raises(ValueError, match="pixels range"):
        attack(NETWORK, X + 1, Y)


def test_a_check_costs_no_pass_through_the_network_and_leaves_no_hook():
    passes = []
    handle = NETWORK.register_forward_pre_hook(lambda module, args: passes.append(1))
    PGD(steps=3)(NETWORK, X, Y)
    handle.remove()
    assert len(passes) == 3
    assert not NETWORK._forward_hooks


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_not_finite_predict_nothing(value):
    logits = torch.tensor([[0.0, 1.0], [value, 0.0], [0.0, value]])
    assert prediction(logits).tolist() == [1, -1, -1]


@pytest.mark.parametrize("early_stop", [True, False])
def test_a_network_of_no_numbers_is_never_right(early_stop):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 36, 5))
    nn.init.constant_(network[1].weight, torch.nan)
    y = torch.zeros(4, dtype=torch.int64)
    assert not is_correct(network, X, y).any()
    assert not robust(network, PGD(steps=2, early_stop=early_stop), X, y, torch.arange(4)).any()
