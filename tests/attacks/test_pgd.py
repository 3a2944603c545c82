from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from jsonargparse.typing import register_type
from small_networks import CLASSES, CountedNet, SmallNet, draw_images, predict
from torch import nn

from qra.attacks import FGSM, PGD, Attack, GaussianStart, UniformStart, ZeroStart
from qra.losses import cross_entropy
from qra.types import Pixels, format_pixels

BASE = PGD(0.05, 0.02, steps=4)
seeds = st.integers(0, 2**31)


class Linear(nn.Sequential):
    """Two classes apart along a fixed direction, so that the best perturbation is known."""

    def __init__(self, weight):
        super().__init__(nn.Flatten(), nn.Linear(weight.numel(), 2, bias=False, dtype=weight.dtype))
        self[1].weight.data = torch.stack([weight.flatten(), -weight.flatten()])


def misclassified(model, x_adv, y):
    return predict(model, x_adv) != y


def linear_case(scale=1.0):
    weight = torch.linspace(-1, 1.2, 12, dtype=torch.float64).view(3, 2, 2)
    x = torch.full((1, 3, 2, 2), 0.5, dtype=torch.float64)
    return Linear(weight * scale), weight, x, torch.zeros(1, dtype=torch.int64)


def test_linf_pgd_finds_the_best_perturbation_of_a_linear_network():
    model, weight, x, y = linear_case()
    x_adv = PGD(0.1, 0.05, steps=5)(model, x, y)
    torch.testing.assert_close(x_adv - x, -0.1 * weight.sign()[None], rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1, 320])
def test_l2_pgd_finds_the_best_perturbation_of_a_linear_network(scale):
    """At scale 320 the network is so confident that the squares of its gradient are zero, even in float64."""
    model, weight, x, y = linear_case(scale)
    x_adv = PGD(0.3, 0.1, steps=5, norm="l2", start=ZeroStart())(model, x, y)
    torch.testing.assert_close(x_adv - x, -0.3 * weight[None] / weight.norm(), rtol=0, atol=1e-9)


def test_an_l2_step_has_the_length_of_the_step():
    model, weight, x, y = linear_case()
    x_adv = PGD(0.3, 0.1, steps=1, norm="l2", start=ZeroStart())(model, x, y)
    torch.testing.assert_close(x_adv - x, -0.1 * weight[None] / weight.norm(), rtol=0, atol=1e-9)


def test_fgsm_moves_every_pixel_by_eps():
    model, weight, x, y = linear_case()
    torch.testing.assert_close(FGSM(0.1)(model, x, y) - x, -0.1 * weight.sign()[None], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("step_size", "expected"), [("10/255", 10 / 255), (None, 8 / 255)])
def test_fgsm_with_a_random_start_is_one_projected_step_of_pgd(step_size, expected):
    model, x = SmallNet(), draw_images(1)
    y = predict(model, x)
    attack = FGSM("8/255", step_size, UniformStart(seed=4))
    pgd = PGD(8 / 255, expected, steps=1, start=UniformStart(seed=4))
    assert torch.equal(attack(model, x, y), pgd(model, x, y))


def test_no_steps_give_the_clipped_start_noise():
    model, x = SmallNet(), draw_images(1)
    attack = PGD(0.1, steps=0)
    delta = attack.start(x, 0.1, "linf", torch.arange(8), 0, 0)
    torch.testing.assert_close(attack(model, x, predict(model, x)), (x + delta).clamp(0, 1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("loss", ["cross_entropy", "dlr", "cw_margin"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_loss_and_norm_lowers_the_accuracy(loss, norm):
    model, x = SmallNet(), draw_images(2, 64)
    y = predict(model, x)
    eps = 0.05 if norm == "linf" else 0.4
    attack = PGD(eps, eps / 4, steps=10, loss=loss, norm=norm)
    random = replace(attack, steps=0)
    assert misclassified(model, attack(model, x, y), y).sum() > misclassified(model, random(model, x, y), y).sum() + 10


def test_the_kl_loss_moves_away_from_the_given_logits():
    model, x = SmallNet().eval(), draw_images(2, 32)
    logits = model(x)
    x_adv = PGD(0.05, 0.0125, loss="kl", start=GaussianStart())(model, x, logits)
    assert (predict(model, x_adv) != logits.argmax(1)).sum() > 5


@pytest.mark.parametrize("loss", ["cross_entropy", "dlr", "cw_margin"])
def test_a_targeted_attack_lowers_the_loss_of_its_target(loss):
    model, x = SmallNet().eval(), draw_images(3, 32)
    target = (predict(model, x) + 1) % CLASSES
    x_adv = replace(BASE, targeted=True, loss=loss, start=ZeroStart())(model, x, target)
    assert cross_entropy(model(x_adv), target).mean() < cross_entropy(model(x), target).mean()
    assert (predict(model, x_adv) == target).sum() > (predict(model, x) == target).sum()


def test_the_step_of_an_example_does_not_shrink_with_its_batch():
    """In float32 a confident example's gradient, divided by the batch size, could become zero."""
    model, x = SmallNet().eval(), draw_images(0, 1)
    y = predict(model, x)
    alone, _ = BASE.gradient(model, x, y)
    many, _ = BASE.gradient(model, x.expand(64, -1, -1, -1), y.expand(64))
    torch.testing.assert_close(many, alone.expand_as(many))


@given(seeds, st.booleans(), st.sampled_from(["linf", "l2"]))
@settings(max_examples=15, deadline=None)
def test_more_restarts_never_raise_robust_accuracy(seed, early_stop, norm):
    model, x = SmallNet(), draw_images(seed, 16)
    y = predict(model, x)
    attack = replace(BASE, start=UniformStart(seed), early_stop=early_stop, norm=norm)
    broken = [misclassified(model, replace(attack, restarts=n)(model, x, y), y) for n in (1, 2, 4)]
    assert (broken[0] <= broken[1]).all()
    assert (broken[1] <= broken[2]).all()


@given(seeds, st.integers(0, 4))
@settings(max_examples=15, deadline=None)
def test_the_worst_restart_is_kept_for_each_example(seed, steps):
    model, x = SmallNet().eval(), draw_images(seed, 16)
    y = predict(model, x)
    attack = replace(BASE, eps=0.1, steps=steps, start=UniformStart(seed))
    each = torch.stack([one_restart(attack, restart)(model, x, y) for restart in range(6)])
    logits = torch.stack([model(x_adv) for x_adv in each])
    loss = torch.stack([cross_entropy(z, y) for z in logits])
    worst = (loss + 1e6 * (logits.argmax(2) != y)).argmax(0)
    assert torch.equal(replace(attack, restarts=6)(model, x, y), each[worst, torch.arange(16)])


def one_restart(attack, number):
    """The attack that makes only the restart of this number."""

    class Only(PGD):
        def first_iterate(self, x, index, epoch, restart):
            return super().first_iterate(x, index, epoch, number)

    return Only(**{name: getattr(attack, name) for name in attack.__dataclass_fields__})


@given(seeds, st.sampled_from(["linf", "l2"]), st.booleans())
@settings(max_examples=10, deadline=None)
def test_early_stop_breaks_exactly_the_examples_misclassified_at_some_iterate(seed, norm, targeted):
    model, x = SmallNet(), draw_images(seed, 16)
    y = predict(model, x)
    y = (y + 1) % CLASSES if targeted else y
    eps = 0.05 if norm == "linf" else 0.3
    attack = PGD(eps, eps / 4, 4, 3, UniformStart(seed), norm, targeted=targeted)
    broken = torch.zeros(16, dtype=torch.bool)
    for restart in range(3):
        for steps in range(5):
            iterate = one_restart(replace(attack, steps=steps, restarts=1), restart)(model, x, y)
            broken |= misclassified(model, iterate, y) != targeted
    x_adv = replace(attack, early_stop=True)(model, x, y)
    assert torch.equal(misclassified(model, x_adv, y) != targeted, broken)


def test_early_stop_takes_fewer_passes():
    model, x = CountedNet(SmallNet()), draw_images(5, 64)
    y = predict(model, x)
    attack = PGD(0.05, 0.0125, steps=10, restarts=3)
    passes = []
    for early_stop in (False, True):
        model.batch_sizes.clear()
        x_adv = replace(attack, early_stop=early_stop)(model, x, y)
        passes.append(sum(model.batch_sizes))
        broken = misclassified(model, x_adv, y).sum()
        assert 10 < broken < 60
    assert passes[1] < 0.7 * passes[0]


@pytest.mark.parametrize("early_stop", [False, True])
def test_one_restart_costs_one_forward_pass_a_step(early_stop):
    model, x = CountedNet(SmallNet()), draw_images(5, 4)
    y = predict(model, x)
    model.batch_sizes.clear()
    PGD(1e-6, 1e-7, steps=7, early_stop=early_stop)(model, x, y)
    assert model.batch_sizes == [4] * 7


def test_an_attack_takes_no_gradient_of_a_parameter():
    model, x = SmallNet(), draw_images(5, 4)
    seen = []
    for p in model.parameters():
        p.register_hook(seen.append)
    BASE(model, x, torch.zeros(4, dtype=torch.int64))
    assert seen == []


def test_low_precision_logits_are_judged_in_float32():
    class Bfloat16Logits(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :CLASSES].to(torch.bfloat16)

    dtypes = []

    class Recorded(PGD):
        def objective(self, logits, y):
            dtypes.append(logits.dtype)
            return super().objective(logits, y)

    Recorded(steps=1, loss="dlr", restarts=2)(Bfloat16Logits(), draw_images(0).float(), torch.arange(8) % CLASSES)
    assert set(dtypes) == {torch.float32}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"eps": 8}, r"eps is 8, but pixels are in \[0, 1\]: did you mean 8/255\?"),
        ({"step_size": 2}, r"did you mean 2/255\?"),
        ({"eps": -0.1}, "eps is -0.1"),
        ({"eps": float("nan")}, "eps is nan"),
        ({"eps": float("inf"), "norm": "l2"}, "eps is inf"),
        ({"step_size": -0.1}, "step_size is -0.1"),
        ({"eps": "8/0"}, "not a length in pixels"),
        ({"steps": -1}, "steps is -1"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"restarts": 0}, "restarts is 0"),
        ({"norm": "l1"}, "norm is 'l1': choose one of linf, l2"),
        ({"loss": "mse"}, "loss is 'mse': choose one of cross_entropy, dlr, cw_margin, kl"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(setting, message):
    with pytest.raises(ValueError, match=message):
        PGD(**setting)


@pytest.mark.parametrize("setting", [{"eps": 8}, {"step_size": -1}, {"norm": "l1"}])
def test_fgsm_refuses_what_pgd_refuses(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        FGSM(**setting)


def test_an_l2_radius_may_exceed_one():
    assert PGD(eps=2.5, step_size=1.5, norm="l2").eps == 2.5


def test_steps_that_get_nowhere_in_l2_are_told_of_once(caplog):
    for _ in range(2):
        PGD(eps=0.505, norm="l2")  # with the step of L-inf
        PGD(eps=0.505, norm="l2", steps=0)
        PGD(eps=0.505, step_size=0.2, steps=3, norm="l2")
    assert caplog.messages == [
        "the steps of PGD add up to only 0.0784, but eps is 0.505 (L2): give it a larger step_size, such as eps / 4"
    ]


@pytest.mark.parametrize("attack", [PGD("4/255", "1/255"), FGSM("4/255", "1/255")])
def test_lengths_written_as_fractions_become_numbers(attack):
    assert attack.eps == 4 / 255
    assert attack.step_size == 1 / 255


class Job:
    def __init__(self, attack: Attack):
        self.attack = attack


@pytest.mark.parametrize(
    "expected",
    [PGD(4 / 255, 1 / 255, 3, start=GaussianStart(0.01, seed=2), norm="l2"), FGSM(4 / 255, start=ZeroStart())],
)
def test_attacks_are_made_from_class_path_and_init_args(expected):
    register_type(Pixels, serializer=format_pixels, deserializer=Pixels)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Job, "job")
    start = {"class_path": f"qra.attacks.{type(expected.start).__name__}", "init_args": vars(expected.start)}
    init_args = {**vars(expected), "eps": "4/255", "start": start}
    attack = {"class_path": f"qra.attacks.{type(expected).__name__}", "init_args": init_args}
    config = parser.parse_object({"job": {"attack": attack}})
    assert parser.instantiate(config).job.attack == expected
