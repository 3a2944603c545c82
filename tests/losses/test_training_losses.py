"""Training losses against the official codes named in tests/golden/README.md, and against their equations."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from qra import losses


def arrays_of(file):
    with np.load(Path(__file__).parents[1] / "golden" / file) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.fixture(scope="module")
def golden():
    return arrays_of("losses.npz")


@pytest.fixture(scope="module")
def golden_transfer():
    return arrays_of("transfer_losses.npz")


def gradients(golden, loss):
    """Value and gradients of ``loss(clean logits, adversarial logits)`` at the stored student's."""
    clean, adversarial = (golden[f"student_{kind}"].clone().requires_grad_() for kind in ("nat", "adv"))
    value = loss(clean, adversarial)
    given = torch.autograd.grad(value, (clean, adversarial), allow_unused=True)
    return value, *(torch.zeros_like(clean) if g is None else g for g in given)


def assert_official(golden, name, loss):
    value, g_nat, g_adv = gradients(golden, loss)
    assert value.item() == pytest.approx(golden[f"{name}.loss"].item(), rel=1e-5)
    torch.testing.assert_close(g_nat, golden[f"{name}.g_nat"], rtol=0, atol=1e-5)
    torch.testing.assert_close(g_adv, golden[f"{name}.g_adv"], rtol=0, atol=1e-5)


def test_rslad_with_the_published_options_equals_the_official_code(golden):
    teacher = golden["teacher_nat"]
    assert_official(golden, "rslad", lambda z, a: losses.rslad(z, a, teacher, reduction="mean", tiny=1e-5))


def test_by_default_rslad_is_the_official_loss_times_the_classes(golden):
    teacher = golden["teacher_nat"]
    _, g_nat, g_adv = gradients(golden, lambda z, a: losses.rslad(z, a, teacher))
    torch.testing.assert_close(g_nat, 10 * golden["rslad.g_nat"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(g_adv, 10 * golden["rslad.g_adv"], rtol=1e-4, atol=1e-5)
    student = golden["student_nat"]
    assert losses.rslad(student, student, student) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("kd_weight", "temperature"), [(1.0, 30.0), (1.0, 1.0), (0.9, 5.0), (0.5, 4.0)])
def test_ard_with_the_published_reduction_equals_the_official_code(golden, kd_weight, temperature):
    def loss(z, a):
        return losses.ard(z, a, golden["teacher_nat"], golden["y"], temperature, kd_weight, "mean")

    assert_official(golden, f"ard.a{kd_weight}_t{temperature}", loss)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_iad_with_the_published_weights_equals_the_official_code(golden, beta):
    def loss(z, a):
        teacher = golden["teacher_nat"], golden["teacher_adv"]
        return losses.iad(z, a, *teacher, golden["y"], beta, weigh_teacher=False)

    assert_official(golden, f"iad1.beta{beta}", loss)


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def softmax(z):
    return z.exp() / z.exp().sum(1, keepdim=True)


def divergence(p, q):
    """KL(p || q) of each example, as it is written in books."""
    return (p * (p / q).log()).sum(1)


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return double(6, 5), double(6, 5), double(6, 5), double(6, 5)


Y = torch.tensor([0, 1, 2, 3, 4, 0])


def assert_same(actual, expected, inputs):
    """Values and gradients, pointwise."""
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-9)
    for ours, theirs in zip(torch.autograd.grad(actual, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_trades_follows_its_equation(logits):
    z, a, *_ = logits
    expected = -softmax(z).log()[range(6), Y].mean() + 3 * divergence(softmax(z), softmax(a)).mean()
    assert_same(losses.trades(z, a, Y, 3), expected, (z, a))


def test_trades_with_beta_0_is_plain_training(logits):
    z, a, *_ = logits
    loss = losses.trades(z, a, Y, beta=0)
    assert_same(loss, F.cross_entropy(z, Y) + 0 * a.sum(), (z, a))


def test_mart_follows_its_equation(logits):
    z, a, *_ = logits
    p, q = softmax(z), softmax(a)
    wrong = torch.stack([torch.cat([row[:label], row[label + 1 :]]).max() for row, label in zip(q, Y, strict=True)])
    boosted = -q[range(6), Y].log() - (1.0001 - wrong).log()
    expected = (boosted + 2 * divergence(p, q) * (1.0000001 - p[range(6), Y])).mean()
    assert_same(losses.mart(z, a, Y, 2), expected, (z, a))


def test_mart_is_finite_where_the_network_is_sure_and_wrong():
    z = torch.tensor([[1000.0, 0.0]], requires_grad=True)
    loss = losses.mart(z, z, torch.tensor([1]))
    assert loss.isfinite()
    assert torch.autograd.grad(loss, z)[0].isfinite().all()


def test_iad_weighs_both_terms_by_trust(logits):
    z, a, t, t_adv = logits
    trust = softmax(t_adv)[range(6), Y] ** 0.3
    expected = trust * divergence(softmax(t), softmax(a)) + (1 - trust) * divergence(softmax(z), softmax(a))
    assert_same(losses.iad(z, a, t, t_adv, Y, 0.3), expected.mean(), (z, a))


def test_adaad_is_the_divergence_from_the_teacher_at_the_same_image(logits):
    z, a, t, t_adv = logits
    assert_same(losses.adaad(None, a, None, t_adv), divergence(softmax(t_adv), softmax(a)).mean(), (a, t_adv))
    both = 0.25 * divergence(softmax(t), softmax(z)) + 0.75 * divergence(softmax(t_adv), softmax(a))
    assert_same(losses.adaad(z, a, t, t_adv, 0.25), both.mean(), (z, a))
    with pytest.raises(ValueError, match="needs both networks' clean logits"):
        losses.adaad(None, a, t, t_adv, 0.25)


@pytest.mark.parametrize(("data", "reduction"), [("cifar10", "mean"), ("cifar100", "batchmean")])
@pytest.mark.parametrize("alpha", ["1", "0.7"])
def test_adaad_equals_the_official_code(golden, golden_transfer, data, reduction, alpha):
    teacher = golden["teacher_nat"], golden["teacher_adv"]
    found = golden | golden_transfer
    assert_official(
        found,
        f"adaad.{data}.alpha{alpha}",
        lambda z, a: losses.adaad(z, a, *teacher, 1 - float(alpha), reduction),
    )


@pytest.mark.parametrize(("name", "loss"), [("rrm", losses.rrm), ("lwf", losses.lwf)])
def test_transfer_by_features_equals_the_official_code(golden, golden_transfer, name, loss):
    logits = golden["student_nat"].clone().requires_grad_()
    features = golden_transfer["student_features"].clone().requires_grad_()
    value = loss(logits, features, golden_transfer["teacher_features"], golden["y"])
    assert value.item() == pytest.approx(golden_transfer[f"{name}.loss"].item(), rel=1e-5)
    for which, gradient in zip(("logits", "features"), torch.autograd.grad(value, (logits, features)), strict=True):
        expected = golden_transfer[f"{name}.g_{which}"].float()
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)


def test_rrm_follows_its_equation(logits):
    z, *_ = logits
    h, t = double(6, 8), double(6, 8)
    cosine = (h * t).sum(1) / (h.norm(dim=1) * t.norm(dim=1))
    assert_same(losses.rrm(z, h, t, Y, 0.1), 0.1 * F.cross_entropy(z, Y) - cosine.mean(), (z, h))


def test_lwf_follows_its_equation(logits):
    z, *_ = logits
    h, t = double(6, 8), double(6, 8)
    assert_same(losses.lwf(z, h, t, Y, 0.1), F.cross_entropy(z, Y) + 0.1 * (h - t).abs().sum() / 6, (z, h))


def test_half_precision_is_taken_to_float32(logits):
    z, a, t, t_adv = (part.detach().bfloat16() for part in logits)
    given = (
        losses.trades(z, a, Y), losses.mart(z, a, Y), losses.rslad(z, a, t), losses.ard(z, a, t, Y, 4, 0.5),
        losses.iad(z, a, t, t_adv, Y), losses.adaad(z, a, t, t_adv, 0.5), losses.rrm(z, z, t, Y),
        losses.lwf(z, z, t, Y),
    )  # fmt: skip
    assert {loss.dtype for loss in given} == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0}, "temperature is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"kd_weight": 1.1}, "kd_weight is 1.1"),
        ({"kd_weight": -0.1}, "kd_weight is -0.1"),
        ({"kd_weight": 0.5}, "needs the student's clean logits"),
    ],
)
def test_ard_refuses_settings_out_of_range(logits, settings, message):
    _, a, t, _ = logits
    with pytest.raises(ValueError, match=message):
        losses.ard(None, a, t, Y, **settings)
