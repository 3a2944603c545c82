"""What every attack promises, whatever its settings."""

import copy
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import CLASSES, SmallNet, distance, draw_images, predict
from torch import nn

from qra.attacks import (
    APGD,
    FAB,
    FGSM,
    FMN,
    PGD,
    Attack,
    GaussianStart,
    RoundingCascade,
    Square,
    UniformStart,
    ZeroStart,
)

EPS = 0.1
ATTACKS = [
    PGD(EPS, 0.03, steps=3),
    PGD(EPS, 0.03, steps=3, restarts=2),
    PGD(EPS, 0.03, steps=3, restarts=2, early_stop=True),
    PGD(1.0, 0.4, steps=3, norm="l2", start=UniformStart()),
    PGD(EPS, 0.03, steps=2, start=GaussianStart(0.3)),
    FGSM(EPS),
    FGSM(EPS, step_size=1.25 * EPS, start=UniformStart()),
]
every_attack = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: repr(attack)[:70])
seeds = st.integers(0, 2**31)


@pytest.fixture
def model():
    return SmallNet()


@pytest.fixture
def x():
    return draw_images(0)


@pytest.fixture
def y(model, x):
    return predict(model, x)


@given(
    seed=seeds,
    norm=st.sampled_from(["linf", "l2"]),
    start=st.sampled_from([ZeroStart(), UniformStart(), GaussianStart(0.5)]),
    eps=st.floats(0, 1),
    step_size=st.floats(0, 1),
    steps=st.integers(0, 3),
    early_stop=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=40, deadline=None)
def test_adversarial_images_stay_in_the_ball_and_the_pixel_range(
    seed, norm, start, eps, step_size, steps, early_stop, dtype
):
    model, x = SmallNet().to(dtype), draw_images(seed, 4).to(dtype)
    attack = PGD(eps, step_size, steps, 2, start, norm, early_stop=early_stop)
    x_adv = attack(model, x, torch.arange(4), index=torch.arange(4) + seed)
    assert distance(x_adv, x, norm).max() <= eps + 1e-6
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert x_adv.dtype == dtype
    assert x_adv.is_contiguous()
    assert not x_adv.requires_grad


@every_attack
def test_eps_zero_gives_the_images_back(attack, model, x, y):
    settings = {name: getattr(attack, name) for name in ("start", "norm")}
    x_adv = type(attack)(0, **settings)(model, x, y)
    assert torch.equal(x_adv, x)
    assert x_adv.data_ptr() != x.data_ptr()


@every_attack
def test_the_images_and_labels_are_not_written_to(attack, model, x, y):
    before = x.clone(), y.clone()
    attack(model, x, y)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    assert not x.requires_grad


@every_attack
def test_parameters_buffers_and_gradients_of_the_model_stay_untouched(attack, model, x, y):
    model[0].weight.requires_grad_(False)
    model(x).sum().backward()
    state = copy.deepcopy(model.state_dict())
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    needs_gradient = [p.requires_grad for p in model.parameters()]
    attack(model, x, y)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == needs_gradient
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        assert (p.grad is None) if gradient is None else torch.equal(p.grad, gradient)


@every_attack
def test_every_submodule_gets_its_own_mode_back(attack, model, x, y):
    model[1].eval()
    modes = [module.training for module in model.modules()]
    attack(model, x, y)
    assert [module.training for module in model.modules()] == modes
    assert True in modes
    assert False in modes


def test_modes_come_back_when_the_network_raises(model, x, y):
    model[1].eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError):
        PGD()(model, x[:, :2], y)
    assert [module.training for module in model.modules()] == modes


@every_attack
def test_the_network_runs_in_eval_mode(attack, model, x, y):
    assert torch.equal(attack(model.train(), x, y), attack(model.eval(), x, y))


@every_attack
def test_the_global_generator_is_left_alone(attack, model, x, y):
    before = torch.get_rng_state()
    attack(model, x, y)
    assert torch.equal(torch.get_rng_state(), before)


@every_attack
def test_an_attack_repeats_itself_and_draws_anew_in_another_epoch(attack, model, x, y):
    first = attack(model, x, y, epoch=1)
    assert torch.equal(attack(model, x, y, epoch=1), first)
    is_random = not isinstance(attack.start, ZeroStart)
    assert torch.equal(attack(model, x, y, epoch=2), first) != is_random


@every_attack
def test_the_result_of_an_example_does_not_depend_on_the_batch_around_it(attack, model, x, y):
    index = torch.arange(100, 108)
    whole = attack(model, x, y, index=index)
    part = torch.tensor([6, 1, 3])
    torch.testing.assert_close(attack(model, x[part], y[part], index=index[part]), whole[part], rtol=0, atol=1e-9)


@every_attack
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_attack_works_where_gradients_are_off(attack, mode, model, x, y):
    expected = attack(model, x, y)
    with mode():
        # tensors made in inference mode cannot take part in gradients
        x_adv = attack(model, x.clone(), y.clone(), index=torch.arange(len(x)))
        assert not torch.is_grad_enabled()
    assert torch.equal(x_adv, expected)


@every_attack
def test_channels_last_images_give_the_same_contiguous_result(attack, model, x, y):
    x_adv = attack(model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last), y)
    assert x_adv.is_contiguous()
    torch.testing.assert_close(x_adv, attack(model, x, y), rtol=0, atol=1e-9)


@every_attack
def test_an_empty_batch_gives_an_empty_batch(attack, model, x, y):
    assert attack(model, x[:0], y[:0]).shape == (0, 3, 6, 6)


def test_accumulated_parameter_gradients_are_those_without_an_attack_in_between(x, y):
    """backward() in the inner loop would add to .grad between two accumulated batches."""
    attack = PGD(EPS, 0.03, steps=2)
    between, beforehand = SmallNet().eval(), SmallNet().eval()
    halves = [(x[:4], y[:4]), (x[4:], y[4:])]
    x_advs = [attack(beforehand, *half) for half in halves]
    for half, x_adv in zip(halves, x_advs, strict=True):
        nn.functional.cross_entropy(between(attack(between, *half)), half[1]).backward()
        nn.functional.cross_entropy(beforehand(x_adv), half[1]).backward()
    for p, expected in zip(between.parameters(), beforehand.parameters(), strict=True):
        assert torch.equal(p.grad, expected.grad)


@every_attack
@pytest.mark.parametrize("before", [torch.no_grad, torch.inference_mode])
def test_autocast_around_the_attack_keeps_the_training_gradients(attack, before, x, y):
    """Weights that autocast cached without gradients must not be met again with gradients, nor the reverse."""
    x, (model, plain) = x.float(), (SmallNet().float().eval() for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with before():
            model(x)
        x_adv = attack(model, x, y)
        loss = nn.functional.cross_entropy(model(x_adv), y)
    loss.backward()
    assert x_adv.dtype == torch.float32
    assert distance(x_adv, x, attack.norm).max() <= attack.eps + 1e-6
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nn.functional.cross_entropy(plain(x_adv), y)
    loss.backward()
    for p, expected in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p.grad, expected.grad)


@dataclass(frozen=True)
class MostHarmfulShift(Attack):
    """A user's attack, written without care for memory layout and graphs."""

    eps: float = EPS

    def perturb(self, model, x, y, index, epoch):
        shift = torch.zeros(len(x), 1, 1, 1, dtype=x.dtype, requires_grad=True)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(x + shift), y), shift)
        return (x + shift + self.eps * gradient.sign()).clamp(0, 1).to(memory_format=torch.channels_last)


def test_a_user_written_attack_gives_a_contiguous_result_without_a_graph(model, x, y):
    with torch.no_grad():
        x_adv = MostHarmfulShift()(model, x, y)
    assert x_adv.is_contiguous()
    assert not x_adv.requires_grad
    assert model.training


def test_byte_images_are_refused(model, y):
    with pytest.raises(ValueError, match="divide bytes by 255"):
        PGD()(model, torch.zeros(8, 3, 6, 6, dtype=torch.uint8), y)


def test_labels_of_another_length_are_refused(model, x, y):
    with pytest.raises(ValueError, match="differ in length: 8, 7 and 8"):
        PGD()(model, x, y[:7])


def test_an_index_of_another_length_is_refused(model, x, y):
    with pytest.raises(ValueError, match="differ in length: 8, 8 and 3"):
        PGD()(model, x, y, index=torch.arange(3))


@pytest.mark.parametrize("attack", [PGD(), PGD(targeted=True), APGD(), FAB(), FMN(), Square(), RoundingCascade()])
def test_what_are_no_labels_is_refused_by_every_attack_on_labels(model, x, y, attack):
    for wrong in (torch.zeros(8, CLASSES), nn.functional.one_hot(y, CLASSES), y[:, None]):
        with pytest.raises(ValueError, match=r"y has the shape \(8, \d\): .* needs (labels|target classes) \(N,\)"):
            attack(model, x, wrong)


def test_labels_for_the_kl_loss_are_refused(model, x, y):
    with pytest.raises(ValueError, match=r"y has the shape \(8,\): PGD-10, kl needs reference logits \(N, C\)"):
        PGD(loss="kl")(model, x, y)
