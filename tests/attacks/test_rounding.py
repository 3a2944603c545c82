"""What is tried on networks that round activations, beyond AutoAttack."""

import pytest
import torch
from small_networks import SmallNet, SteppedNet, distance, draw_images, predict
from torch import nn

from qra.attacks import APGD, PGD, AttackState, AutoAttack, Polish, RoundingCascade, UnroundedAPGD
from qra.attacks.state import margin_of
from qra.evaluation.robustness import attack_examples
from qra.quant import PACT, DoReFa, QuantScheme, convert, freeze
from qra.types import Batch

EPS = 16 / 255


def batch(model, n=16, seed=0):
    x = draw_images(seed, n).to(next(model.parameters()).dtype)
    return Batch(x, predict(model, x), torch.arange(n))


def margins(model, x, y):
    with torch.no_grad():
        return margin_of(model.eval()(x), y)


class Watched(nn.Module):
    """Remembers the images that it saw."""

    def __init__(self, network):
        super().__init__()
        self.network, self.seen = network, []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return self.network(x)


@pytest.mark.parametrize(
    "attack", [APGD(0.03, steps=5), APGD(0.3, "l2", "targeted_dlr", 4), PGD(0.03, 0.01, 5, early_stop=True)]
)
def test_the_state_keeps_the_image_of_lowest_margin_that_was_seen(attack):
    model = SmallNet().eval()
    for x, y, index in zip(*(each.split(1) for each in batch(model, 4)), strict=True):
        watched = Watched(model)
        state = AttackState(model, x, y, watched, index=index)
        attack.run(state)
        seen = torch.stack([margins(model, images, y) for images in watched.seen])
        assert torch.equal(state.margin, seen.amin(0))
        assert torch.equal(margins(model, state.closest, y), state.margin)


def test_an_attack_that_only_returns_images_leaves_their_margins_too():
    model = SmallNet().eval()
    x, y, index = batch(model)
    state = AttackState(model, x, y, index=index)
    PGD(0.01, 0.0025, 3).run(state)
    assert torch.equal(margins(model, state.closest, y), state.margin)
    assert torch.equal(state.closest[~state.broken], state.x_adv[~state.broken])


def test_polish_starts_from_the_closest_image_and_only_lowers_margins():
    model = SmallNet().eval()
    x, y, index = batch(model)
    state = AttackState(model, x, y, index=index)
    APGD(0.01, steps=5).run(state)
    left, before, watched = state.survivors(), state.closest.clone(), Watched(model)
    state.search = watched
    Polish(0.01, queries=1).run(state)
    assert torch.equal(watched.seen[0], before[left])


def test_polish_changes_a_square_at_a_time_to_corners_of_the_ball():
    model = SmallNet().eval()
    x, y, index = batch(model, seed=3)
    x_adv = Polish(0.02, queries=1)(model, x, y, index=index)
    low, high = (x - 0.02).clamp(min=0), (x + 0.02).clamp(max=1)
    at_a_corner = torch.isclose(x_adv, low, atol=1e-12) | torch.isclose(x_adv, high, atol=1e-12)
    assert (at_a_corner | (x_adv == x)).all()
    assert distance(x_adv, x, "linf").max() <= 0.02 + 1e-12


def test_squares_of_polish_shrink_from_six_pixels_to_one():
    sides = [Polish().side(query) for query in range(4000)]
    assert [sides[0], sides[-1]] == [6, 1]
    assert sorted(sides, reverse=True) == sides
    assert set(sides) == {6, 4, 3, 2, 1}


def test_polish_breaks_more_with_more_queries():
    model = SmallNet()
    left = [int(attack_examples(model, Polish(0.05, queries), batch(model)).correct.sum()) for queries in (5, 200)]
    assert left[1] < left[0] < 16


def test_each_iterate_on_the_unrounded_network_is_tried_on_the_network():
    model = SteppedNet().eval()
    x, y, index = batch(model)
    watched = Watched(model)
    watched.unrounded = model.unrounded
    state = AttackState(model, x, y, watched, index=index)
    UnroundedAPGD(1e-4, steps=6, starts=2).run(state)
    assert len(state.survivors()) == len(x)
    assert len(watched.seen) == 2 * 7
    assert not torch.equal(watched.seen[0], watched.seen[7])
    assert torch.equal(state.margin, torch.stack([margins(model, images, y) for images in watched.seen]).amin(0))


def test_an_iterate_counts_wherever_the_network_itself_is_wrong():
    model = SteppedNet().eval()
    x, y, index = batch(model, 32)
    state = AttackState(model, x, y, index=index)
    UnroundedAPGD(0.01, steps=6, starts=1).run(state)
    assert torch.equal(state.broken, state.margin <= 0)
    assert 0 < state.broken.sum() < len(x)


def test_no_target_is_the_label_among_classes_that_are_equally_likely():
    network, x = nn.Sequential(nn.Flatten(), nn.Linear(4, 5)), torch.zeros(5, 1, 2, 2)
    nn.init.zeros_(network[1].bias)
    state = AttackState(network, x, torch.arange(5))
    targets = torch.stack([state.targets(torch.arange(5), rank) for rank in range(1, 6)])
    assert torch.equal(targets[0], state.y)
    assert torch.equal(targets.sort(0).values, torch.arange(5)[:, None].expand(5, 5))


def test_a_network_that_rounds_nothing_is_not_attacked_a_second_time():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()
    x, y, index = batch(network)
    found = attack_examples(network, UnroundedAPGD(EPS), Batch(x, y, index), freeze(network))
    assert found.correct.all()
    assert torch.equal(found.x_adv, x)


def test_the_cascade_breaks_what_autoattack_breaks_by_the_same_members():
    model = SteppedNet()
    examples = batch(model, 32)
    short = {"seed": 3, "steps": 4, "targets": 2, "queries": 20}
    alone = attack_examples(model, AutoAttack(0.03, **short), examples).first_broken_by
    cascade = attack_examples(model, RoundingCascade(0.03, **short, starts=1, polish=50), examples).first_broken_by
    assert torch.equal(cascade.clamp(max=5), alone)
    assert (cascade > 4).sum() > (cascade > 6).sum() > 0


def test_bytes_stay_bytes_in_the_whole_cascade():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)).eval()
    convert(network, QuantScheme(DoReFa(), PACT(alpha=1.0), 4, 2))
    x = (draw_images(0, 16).float() * 255).round() / 255
    examples = Batch(x, predict(network, x), torch.arange(16))
    attack = RoundingCascade(3.5 / 255, steps=3, targets=2, queries=10, starts=1, polish=100)
    found = attack_examples(network, attack, examples, freeze(network), "bytes")
    changed = found.x_adv * 255
    assert torch.allclose(changed, changed.round(), atol=1e-3)
    assert (found.x_adv - x).abs().max() <= 3 / 255 + 1e-6
    assert (found.first_broken_by > 4).any()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Polish(queries=0), "queries is 0: it must be at least 1"),
        (lambda: UnroundedAPGD(starts=0), "starts is 0: it must be at least 1"),
        (lambda: RoundingCascade(polish=0), "polish is 0: it must be at least 1"),
        (lambda: RoundingCascade(8), "eps is 8, but pixels are in"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(make, reason):
    with pytest.raises(ValueError, match=reason):
        make()


def test_a_cascade_never_has_the_name_of_autoattack():
    assert RoundingCascade().title == "rounding cascade"
    assert RoundingCascade(polish=10).title == "shortened rounding cascade (10 polish)"
    assert RoundingCascade().standard == ""


def test_the_image_of_lowest_margin_is_given_as_the_network_receives_it():
    def received(x_adv, clean):
        return (4 * x_adv).round() / 4

    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    x = torch.full((1, 1, 2, 2), 0.5)
    state = AttackState(network, x, network(x).argmax(1), received=received)
    place = torch.tensor([0])
    state.record_success(place, torch.tensor([False]), torch.full((1, 1, 2, 2), 0.7), margin=torch.tensor([-1.0]))
    assert state.received_closest(place).unique().tolist() == [0.75]
