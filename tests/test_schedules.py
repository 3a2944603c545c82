import pytest
import torch
from torch import nn

from qra.schedules import Cosine, MultiStep, OneCycle


def rates(schedule, steps):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=2.0)
    scheduler = schedule(optimizer, steps)
    found = []
    for _ in range(steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_one_cycle_rises_to_the_full_rate_and_falls_to_zero():
    found = rates(OneCycle(0.25), 100)
    assert found[0] == pytest.approx(0.08)
    assert found[25] == pytest.approx(2.0)
    assert found[100] == pytest.approx(0.0)
    assert found[:26] == sorted(found[:26])
    assert found[25:] == sorted(found[25:], reverse=True)


def test_multi_step_drops_at_each_fraction_of_the_run():
    assert rates(MultiStep((0.5, 0.75)), 8) == pytest.approx([2.0] * 4 + [0.2] * 2 + [0.02] * 3)


def test_cosine_is_halfway_in_the_middle():
    found = rates(Cosine(), 10)
    assert [found[0], found[5], found[10]] == pytest.approx([2.0, 1.0, 0.0])


@pytest.mark.parametrize(
    "make", [lambda: OneCycle(0), lambda: OneCycle(1), lambda: MultiStep((0.75, 0.5)), lambda: MultiStep((0.5, 2))]
)
def test_fractions_out_of_place_are_refused(make):
    with pytest.raises(ValueError, match=r"(warmup|fraction)"):
        make()
