"""APGD, FAB and Square against the outputs of the official code that are stored in tests/golden/README.md."""

import dataclasses

import numpy as np
import pytest
import torch

from qra.attacks import APGD, FAB, AttackState, Square, planes, square
from qra.attacks.apgd import Climb
from qra.attacks.planes import project_onto_plane
from qra.attacks.state import margin_of


@pytest.fixture
def state(golden, network):
    return AttackState(network, golden["x"][:-1], golden["y"][:-1])


def close(actual, expected, rtol=0.0, atol=1e-4):
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize(("loss", "steps"), [("ce", 20), ("ce", 100), ("dlr", 20), ("dlr", 100), ("dlrt", 20)])
@pytest.mark.parametrize("level", [8, 2])
def test_apgd_from_the_image_finds_the_official_loss(golden, state, loss, steps, level):
    key = f"apgdt.e{level}.n20" if loss == "dlrt" else f"apgd.e{level}.{loss}.n{steps}"
    attack = APGD(level / 255, "linf", {"ce": "cross_entropy", "dlr": "dlr", "dlrt": "targeted_dlr"}[loss], steps)
    climb = Climb(attack, state, torch.arange(5), 2 if loss == "dlrt" else None, state.x)
    fooled = climb.fooled
    for _ in range(steps):
        climb.move(last=False)
        fooled = fooled | climb.fooled
        climb.learn()
    assert torch.equal(fooled, ~golden[f"{key}.acc"])
    close(climb.best_loss, golden[f"{key}.loss_best"])


@pytest.mark.parametrize(("steps", "numbers"), [(20, "apgd.ckpt.n20"), (100, "apgd.ckpt.n100")])
def test_checkpoints_of_apgd_are_the_official_ones(golden, state, steps, numbers):
    first, least, decrement = golden[numbers].tolist()
    climb = Climb(APGD(steps=steps), state, torch.arange(5), None, state.x)
    checks, gaps = [], []
    for step in range(1, steps + 1):
        if step == climb._next_check:
            checks.append(step)
            gaps.append(climb._gap)
        climb.move(last=False)
        climb.learn()
    assert checks[0] == gaps[0] == first
    assert gaps == [max(first - place * decrement, least) for place in range(len(gaps))]
    assert np.diff(checks).tolist() == gaps[1:]


def test_fab_breaks_what_lies_within_the_official_distance(golden, network):
    x, y, distance = golden["x"][:-1], golden["y"][:-1], golden["fabt.n20.linf"]
    found = (golden["fabt.n20.x_adv"] != x).flatten(1).any(1)
    assert found.any()
    for example in found.nonzero().flatten().tolist():
        one = slice(example, example + 1)
        attack = FAB(distance[example].item() * 1.001, steps=20, targets=1)
        assert network(attack(network, x[one], y[one])).argmax(1) != y[one]
        attack = dataclasses.replace(attack, eps=distance[example].item() * 0.999)
        assert network(attack(network, x[one], y[one])).argmax(1) == y[one]


def test_the_way_to_a_plane_is_the_official_one(golden):
    close(project_onto_plane(golden["proj.t"], golden["proj.w"], golden["proj.b"], "linf"), golden["proj.d"], atol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.9])
def test_the_steps_of_a_gpu_reach_a_plane_as_far_as_nine_tenths_of_the_box(norm, share):
    generator = torch.Generator().manual_seed(0)
    size = torch.randn(64, 3072, generator=generator).abs() ** torch.rand(64, 1, generator=generator).mul(5)
    room = torch.rand(64, 3072, generator=generator)
    speed = size if norm == "l2" else torch.ones_like(size)
    excess = share * (size * room).sum(1)
    found = planes.newton(size, speed, room, excess, planes._ROUNDS)
    assert torch.equal(found, planes.newton(size, speed, room, excess))


@pytest.mark.parametrize("at_a_time", [1, 8])
@pytest.mark.parametrize("ahead", [16, 256])
def test_squares_are_drawn_alike_however_many_at_once(at_a_time, ahead, monkeypatch, network, golden):
    def draws(at_a_time):
        attack, state = Square(queries=43), AttackState(network, golden["x"], golden["y"])
        search = square._Squares(attack, state, state.survivors())
        blocks = [range(first, min(first + at_a_time, 43)) for first in range(0, 43, at_a_time)]
        return (torch.cat(each, 1) for each in zip(*map(search.draw, blocks), strict=True))

    monkeypatch.setattr(square, "_AHEAD", 1)
    one_by_one = draws(1)
    monkeypatch.setattr(square, "_AHEAD", ahead)
    for found, expected in zip(draws(at_a_time), one_by_one, strict=True):
        assert found.shape[:2] == (1, 43)
        assert torch.equal(found, expected)


def test_squares_shrink_like_the_official_ones(golden):
    attack = Square()
    queries = golden["square.it"].tolist()
    assert [attack.share(query) for query in queries] == golden["square.p"].tolist()
    assert [attack.side(query, 32, 32) for query in queries] == golden["square.s_32x32"].tolist()


def test_the_margin_of_square_is_the_official_one(golden, network):
    close(margin_of(network(golden["x"]), golden["y"]).detach(), golden["square.margin"])
