"""Parts of FAB and Square against the outputs of the official code that are stored in tests/golden/README.md."""

import pytest
import torch

from qra.attacks import AttackState, Square, planes, square
from qra.attacks.planes import project_onto_plane


def test_the_way_to_a_plane_is_the_official_one(golden):
    found = project_onto_plane(golden["proj.t"], golden["proj.w"], golden["proj.b"], "linf")
    torch.testing.assert_close(found, golden["proj.d"], rtol=0, atol=1e-5)


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
