"""AutoAttack in an evaluation, by qra's code and by the authors'."""

import sys

import pytest
import torch
from torch import nn

from qra.attacks import AutoAttack
from qra.evaluation.autoattack import upstream
from qra.evaluation.protocol import Protocol
from qra.evaluation.robustness import attack_examples
from qra.quant import freeze
from qra.types import Batch

CLEAN, APGD_CE, ROBUST = 0, 1, 5
ATTACK = AutoAttack(0.03, steps=4, queries=15)


def images(n=16):
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(216, 5)
    )


@pytest.fixture
def y(network):
    with torch.no_grad():
        y = network.eval()(images()).argmax(1)
    network.train()
    y[:2] = (y[:2] + 1) % 5
    return y


def run(network, y, watch=lambda name, share, correct: None):
    with torch.inference_mode(False):
        frozen = freeze(network)
    batch = Batch(images(), y, torch.arange(16))
    return attack_examples(network, ATTACK, batch, frozen, watch=watch).first_broken_by


def test_each_example_has_the_fate_that_it_met_first(network, y):
    broken_by = run(network, y)
    assert (broken_by[:2] == CLEAN).all()
    assert (broken_by[2:] != CLEAN).all()
    assert (broken_by == APGD_CE).any()
    x_adv = ATTACK.members()["apgd_ce"](network, images(), y)
    broken = network.eval()(x_adv).argmax(1) != y
    assert torch.equal(broken, broken_by <= APGD_CE)


def test_who_watches_hears_of_each_attack_and_of_all_its_work(network, y):
    heard = []
    broken_by = run(network, y, lambda *news: heard.append(news))
    assert list(dict.fromkeys(name for name, _, _ in heard)) == ["APGD-CE", "APGD-T", "FAB-T", "Square, 15 queries"]
    shares = [share for _, share, _ in heard]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert heard[-1][2] == (broken_by == ROBUST).sum()


def frame_tracer(*_):
    return None


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("code", ["qra", "authors"])
def test_a_run_leaves_no_trace(network, y, mode, code):
    network[0].requires_grad_(False)
    network(images()).sum().backward()
    flags = [module.training for module in network.modules()]
    gradients = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    random, tracer, tf32 = torch.get_rng_state(), sys.gettrace(), torch.backends.cudnn.allow_tf32
    sys.settrace(frame_tracer)
    try:
        with mode(), torch.autocast("cpu", torch.bfloat16):
            correct = run(network, y) == ROBUST if code == "qra" else upstream(network, ATTACK, images(), y, 16)
        assert sys.gettrace() is frame_tracer
    finally:
        sys.settrace(tracer)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.backends.cudnn.allow_tf32 == tf32
    assert [module.training for module in network.modules()] == flags
    for p, gradient in zip(network.parameters(), gradients, strict=True):
        assert (p.grad is None) if gradient is None else torch.equal(p.grad, gradient)
    assert torch.equal(correct, run(network, y) == ROBUST)


def test_outcomes_fall_from_attack_to_attack():
    broken_by = torch.tensor([0, 1, 2, 3, 4, 5], dtype=torch.uint8)
    found = {o.name: o for o in Protocol(AutoAttack()).outcomes("autoattack_8", torch.arange(6), broken_by)}
    assert {name: o.correct.tolist().count(True) for name, o in found.items()} == {
        "autoattack_8": 1,
        "autoattack_8.apgd_ce": 4,
        "autoattack_8.apgd_t": 3,
        "autoattack_8.fab_t": 2,
    }
    assert found["autoattack_8.apgd_t"].settings["attacks"] == ["apgd_ce", "apgd_t"]
    assert all(o.settings["init_args"]["seed"] == 0 for o in found.values())
