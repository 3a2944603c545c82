"""Differences between executors, images at a boundary, and the verdict."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qra.deploy.parity import Changes, CodeDifferences, SquareFinding, add_codes, boundary, changes, judge
from qra.evaluation.statistics import mcnemar, wilson_interval


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_decisions_that_differ_are_lost_gained_or_wrong_in_both(data):
    n = data.draw(st.integers(1, 40))
    ours, theirs, y = (torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))) for _ in range(3))
    found = changes(ours, theirs, y)
    both_wrong = int(((ours != y) & (theirs != y) & (ours != theirs)).sum())
    assert found.differ == found.lost + found.gained + both_wrong
    assert int((theirs == y).sum()) - int((ours == y).sum()) == found.gained - found.lost
    assert found.interval == wilson_interval(found.differ, n)
    assert found.p == mcnemar(found.lost, found.gained)


def test_changes_are_said_with_their_interval_and_never_as_equal():
    assert str(Changes(1000, 0, 0, 0)) == "0 of 1,000 decisions differ [0.0, 0.4 %] (-0/+0)"


def test_codes_are_counted_layer_by_layer_over_batches():
    ours = {"first": torch.tensor([1.0, 2.0, 3.0]), "second": torch.tensor([5.0]), "alone": torch.zeros(1)}
    theirs = {"first": torch.tensor([1, 4, 3], dtype=torch.uint8), "second": torch.tensor([5], dtype=torch.int8)}
    totals = add_codes(add_codes({}, ours, theirs), ours, theirs)
    assert totals == {"first": CodeDifferences(6, 2, 2), "second": CodeDifferences(2, 0, 0)}
    assert totals["first"].summary()["share"] == pytest.approx(1 / 3)


def test_images_at_a_boundary_lie_between_and_differ_by_a_level_or_two():
    x = torch.tensor([[[[10.0, 20.0], [30.0, 40.0]]]]).expand(3, 1, 2, 2) / 255
    x_adv = x + torch.tensor([[[[8.0, -8.0], [8.0, 8.0]]]]) / 255
    inside, outside = boundary(lambda images: (images.mean((1, 2, 3)) * 255 > 27).long(), x, x_adv, torch.arange(3))
    assert (inside.mean((1, 2, 3)) * 255 <= 27).all()
    assert (outside.mean((1, 2, 3)) * 255 > 27).all()
    apart = ((outside - inside) * 255).round().abs()
    assert (apart.flatten(1).sum(1) <= 2).all()
    for images in (inside, outside):
        assert torch.equal((images * 255).round() / 255, images)
        assert (images >= torch.minimum(x, x_adv)).all()
        assert (images <= torch.maximum(x, x_adv)).all()


def test_the_order_in_which_pixels_go_over_is_that_of_the_index():
    x, x_adv = torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), 8 / 255)

    def decide(images):
        return (images.sum((1, 2, 3)) > 3).long()

    both = boundary(decide, x, x_adv, torch.tensor([4, 7]))
    alone = boundary(decide, x[1:], x_adv[1:], torch.tensor([7]))
    assert torch.equal(both[0][1:], alone[0])
    assert not torch.equal(both[0][0], both[0][1])


def decisions(**differ):
    n = {"clean": 500, "full-length": 500, "early-stopped": 200, "inside": 100, "outside": 100}
    return {kind: Changes(n[kind], differ.get(kind.replace("-", "_"), 0), 0, 0) for kind in n}


def square(broken=0, queries=1000):
    return SquareFinding(500, 200, broken, broken, queries)


@pytest.mark.parametrize(
    ("differ", "verdict"),
    [
        ({}, "faithful"),
        ({"clean": 1, "full_length": 1, "early_stopped": 1, "outside": 60}, "faithful"),
        ({"clean": 2}, "unfaithful"),
        ({"early_stopped": 2}, "unfaithful"),
    ],
)
def test_an_engine_is_faithful_within_the_tolerance(differ, verdict):
    found = judge(decisions(**differ), square())
    assert found.verdict == verdict
    assert any("decisions differ [" in reason for reason in found.reasons)


def test_an_engine_on_which_square_finds_more_is_masked():
    assert judge(decisions(), square(broken=1)).verdict == "faithful"  # 0.2 points of 500
    found = judge(decisions(), square(broken=2))
    assert found.verdict == "masked"
    assert "2 of 200 images" in found.reasons[-1]
    assert "fool the program too" in found.reasons[-1]
    assert judge(decisions(clean=9), square(broken=2)).verdict == "unfaithful"


def test_few_images_are_said_to_say_little():
    few = {kind: Changes(4, 0, 0, 0) for kind in decisions()}
    assert (
        judge(few, None).reasons[0].endswith("(-0/+0), within the tolerance, but 12 decisions are too few to be sure")
    )
    assert "show little" not in judge(decisions(), None).reasons[0]


def test_few_queries_are_said_to_be_few():
    assert "1000 queries would say" in judge(decisions(), square(queries=200)).reasons[-1]
    assert "would say" not in judge(decisions(), square()).reasons[-1]
