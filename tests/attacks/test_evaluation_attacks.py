"""What AutoAttack and its members promise, whatever the network."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import CLASSES, CountedNet, SmallNet, distance, draw_images, predict
from torch import nn

from qra.attacks import APGD, FAB, AttackState, AutoAttack, Square
from qra.attacks.base import untouched

LINF, L2 = (0.05, "linf"), (0.4, "l2")
ATTACKS = [
    attack
    for ball in (LINF, L2)
    for attack in (
        APGD(*ball, steps=6),
        APGD(*ball, "targeted_dlr", steps=4),
        FAB(*ball, steps=4),
        Square(*ball, queries=20),
        AutoAttack(*ball, steps=4, queries=20),
    )
]
every_attack = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: repr(attack)[:60])


@pytest.fixture
def model():
    return SmallNet()


@pytest.fixture
def x():
    return draw_images(0, 12)


@pytest.fixture
def y(model, x):
    return predict(model, x)


@given(
    seed=st.integers(0, 2**31),
    norm=st.sampled_from(["linf", "l2"]),
    eps=st.floats(1e-4, 1),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=12, deadline=None)
def test_adversarial_images_stay_in_the_ball_and_the_pixel_range(seed, norm, eps, dtype):
    model, x = SmallNet().to(dtype), draw_images(seed, 4).to(dtype)
    x_adv = AutoAttack(eps, norm, seed % 7, steps=3, queries=5)(model, x, torch.arange(4))
    assert distance(x_adv, x, norm).max() <= eps + 1e-6
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert x_adv.dtype == dtype
    assert x_adv.is_contiguous()


@every_attack
def test_what_changed_is_broken_and_the_rest_is_as_it_was(attack, model, x, y):
    x_adv = attack(model, x, y)
    changed = (x_adv != x).flatten(1).any(1)
    assert torch.equal(predict(model, x_adv) != y, changed)


@every_attack
def test_an_attack_under_autocast_is_the_attack_without(attack, model, x, y):
    model, x = model.float(), x.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = attack(model, x, y)
    assert torch.equal(under, attack(model, x, y))


@every_attack
def test_the_planned_work_is_done_where_nothing_breaks(attack, model, x, y):
    def never_wrong(images):
        return nn.functional.one_hot(y[: len(images)], CLASSES).double()

    done = []
    with untouched(model):
        state = AttackState(model, x[:1], y[:1], on_step=done.append)
        state._network = never_wrong
        attack.run(state)
    assert sum(done) == pytest.approx(attack.work(CLASSES), rel=1e-6)


@pytest.mark.parametrize("attack", [APGD(loss="targeted_dlr", steps=7), FAB(steps=7)])
def test_as_many_classes_are_aimed_at_as_there_are_wrong_ones_up_to_nine(attack):
    assert [attack.passes(classes).backward for classes in (4, 10, 100)] == [21, 63, 63]


@pytest.mark.parametrize("ball", [LINF, L2])
def test_the_cascade_breaks_what_any_member_breaks(ball, model, x, y):
    cascade = AutoAttack(*ball, steps=4, queries=20)
    broken = predict(model, cascade(model, x, y)) != y
    assert broken.any()
    for member in cascade.members().values():
        assert broken[predict(model, member(model, x, y)) != y].all()


def test_a_tiny_budget_leaves_clean_accuracy(model, x, y):
    y[:2] = (y[:2] + 1) % CLASSES
    x_adv = AutoAttack(1e-9, steps=4, queries=20)(model, x, y)
    assert torch.equal(predict(model, x_adv) == y, predict(model, x) == y)


@every_attack
def test_a_broken_example_is_worked_on_no_more(attack, model, x, y):
    counted = CountedNet(model)
    x_adv = attack(counted, x, y)
    unbroken = int((predict(model, x_adv) == y).sum())
    assert unbroken < len(x)
    assert counted.batch_sizes[-1] <= max(unbroken, 1) * (CLASSES - 1)
    if not isinstance(attack, FAB | AutoAttack):
        assert counted.batch_sizes[-1] <= unbroken


class Stubborn(nn.Module):
    """The network itself, except that it is correct about one image whatever is done to it."""

    def __init__(self, network, y, place):
        super().__init__()
        self.network, self.y, self.place = network, y, place
        self.asked = 0

    def forward(self, x):
        logits = self.network(x)
        if len(x) == len(self.y):
            return logits
        self.asked += len(x)
        return nn.functional.one_hot(self.y.new_full((len(x),), int(self.y[self.place])), CLASSES).to(logits)


@pytest.mark.parametrize("attack", [APGD(*LINF, steps=6), FAB(*LINF, steps=6), Square(0.5, queries=40)])
def test_a_success_that_the_network_itself_denies_does_not_count_and_the_attack_goes_on(attack, model, x, y):
    judge = Stubborn(model, y, 0)
    same = y == y[0]
    with untouched(model):
        state = AttackState(judge, x, y, model)
        attack.run(state)
    assert not state.broken[same].any()
    assert torch.equal(state.x_adv[same], x[same])
    assert judge.asked > len(x)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_images_need_not_be_square(norm):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 3, 7, 11, generator=generator)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 77, 5))
    y = predict(model, x)
    x_adv = AutoAttack(0.02 if norm == "linf" else 0.3, norm, steps=3, queries=10)(model, x, y)
    assert x_adv.shape == x.shape


class Returns(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return self.logits.expand(len(x), -1) + 0 * x.sum()


def test_probabilities_are_refused(x, y):
    with pytest.raises(ValueError, match="logits"):
        AutoAttack()(Returns(torch.full((5,), 0.2)), x, y)


@pytest.mark.parametrize("classes", [2, 3])
def test_too_few_classes_are_refused(classes, x):
    with pytest.raises(ValueError, match=f"has {classes} classes.*at least 4.*untargeted one 3"):
        AutoAttack()(Returns(torch.arange(float(classes))), x, torch.zeros(12, dtype=torch.int64))


def test_square_in_l2_refuses_images_without_room_for_its_tiles():
    with pytest.raises(ValueError, match="4 pixels high"):
        Square(0.5, "l2")(Returns(torch.arange(5.0)), torch.rand(2, 3, 4, 4), torch.full((2,), 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AutoAttack(8), "did you mean 8/255"),
        (lambda: AutoAttack(steps=0), "steps is 0"),
        (lambda: AutoAttack(norm="l1"), "norm is 'l1'"),
        (lambda: APGD(loss="kl"), "loss is 'kl'"),
        (lambda: APGD(eps=-1), "eps is -1"),
        (lambda: FAB(targets=0), "targets is 0"),
        (lambda: Square(queries=0), "queries is 0"),
        (lambda: Square(p_init=-0.1), "p_init is -0.1: it must be above 0 and at most 1"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
