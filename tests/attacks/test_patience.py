"""An attack that looks only every few steps at what is broken ends as one that looks at each step."""

import pytest
import torch
from small_networks import CLASSES, SmallNet, draw_images

import qra.attacks.state
from qra.attacks import APGD, FAB, PGD, AttackState, AutoAttack, Square
from qra.attacks.base import untouched

ATTACKS = [
    APGD(0.2, steps=9),
    APGD(0.2, loss="targeted_dlr", steps=7, targets=3),
    APGD(0.6, "l2", steps=9),
    FAB(0.2, steps=7, targets=4),
    FAB(0.6, "l2", steps=7, targets=4),
    Square(0.2, queries=53),
    Square(0.6, "l2", queries=23),
    AutoAttack(0.12, steps=5, targets=2, queries=20),
]


@pytest.fixture(params=[2, 5, 8])
def patient(request, monkeypatch):
    def wait():
        monkeypatch.setattr(qra.attacks.state, "patience", lambda device: request.param)

    return wait


@pytest.fixture
def attacked():
    network, x = SmallNet().eval(), draw_images(1, 16)
    return network, x, network(x).argmax(1)


def broken(attack, network, x, y):
    with untouched(network):
        state = AttackState(network, x, y)
        attack.run(state)
    return state


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{type(attack).__name__}-{attack.norm}")
def test_the_same_examples_are_broken_by_the_same_first_images(attack, patient, attacked):
    at_each_step = broken(attack, *attacked)
    patient()
    later = broken(attack, *attacked)
    assert int(later.broken.sum()) > 0
    assert torch.equal(later.broken, at_each_step.broken)
    torch.testing.assert_close(later.x_adv, at_each_step.x_adv)


@pytest.mark.parametrize("steps", [1, 8, 13])
def test_pgd_ends_alike(steps, patient, attacked):
    attack = PGD(0.2, 0.02, steps=steps, restarts=3, early_stop=True)
    at_each_step = attack(*attacked)
    patient()
    torch.testing.assert_close(attack(*attacked), at_each_step)


def test_a_claim_that_the_network_denies_does_not_hide_a_later_one(monkeypatch):
    monkeypatch.setattr(qra.attacks.state, "patience", lambda device: 3)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, CLASSES)).eval()
    with torch.no_grad():
        network[1].weight.zero_()[1].fill_(1)
        network[1].bias.zero_()[0] = 1.0
    x, y = torch.zeros(2, 3, 1, 1), torch.zeros(2, dtype=torch.int64)
    state = AttackState(network, x, y)
    left, fooled = state.survivors(), torch.tensor([True, False])
    assert state.record_success(left, fooled, torch.full_like(x, 0.1)) is None
    assert state.record_success(left, fooled, torch.full_like(x, 0.5)) is None
    assert state.record_success(left, fooled, torch.full_like(x, 0.9)).tolist() == [1]
    assert state.broken.tolist() == [True, False]
    assert torch.equal(state.x_adv[0], torch.full((3, 1, 1), 0.5))
