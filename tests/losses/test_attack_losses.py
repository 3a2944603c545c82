from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from qra.losses import cross_entropy, cw_margin, dlr, kl, targeted_dlr

GOLDEN = Path(__file__).parents[1] / "golden" / "attacks.npz"
LABEL_LOSSES = [cross_entropy, cw_margin, dlr]
seeds = st.integers(0, 2**31)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays if name.startswith("dlr")}


def draw(seed, n=6, classes=5):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64) * 3
    y = torch.randint(classes, (n,), generator=generator)
    return logits, y, (y + torch.randint(1, classes, (n,), generator=generator)) % classes


def test_dlr_equals_the_official_values_and_gradients(golden):
    logits = golden["dlr.logits"].requires_grad_()
    loss = dlr(logits, golden["dlr.y"])
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(loss.detach(), golden["dlr.loss"], rtol=0, atol=1e-5)
    torch.testing.assert_close(gradient, golden["dlr.grad"], rtol=0, atol=1e-5)


def test_targeted_dlr_equals_the_official_values_and_gradients(golden):
    logits = golden["dlr.logits"].clone().requires_grad_()
    loss = targeted_dlr(logits, golden["dlr.y"], golden["dlrt.y_target"])
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(loss.detach(), golden["dlrt.loss"], rtol=0, atol=1e-5)
    torch.testing.assert_close(gradient, golden["dlrt.grad"], rtol=0, atol=1e-5)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_margin_and_dlr_are_positive_exactly_where_the_prediction_is_wrong(seed):
    logits, y, _ = draw(seed)
    wrong = logits.argmax(1) != y
    assert torch.equal(cw_margin(logits, y) > 0, wrong)
    assert torch.equal(dlr(logits, y) > 0, wrong)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_cw_margin_equals_its_definition(seed):
    logits, y, _ = draw(seed)
    expected = [max(z for i, z in enumerate(row) if i != c) - row[c] for row, c in zip(logits, y, strict=True)]
    assert torch.equal(cw_margin(logits, y), torch.stack(expected))


@given(seeds, st.floats(0.1, 10), st.floats(-10, 10))
@settings(max_examples=20, deadline=None)
def test_dlr_does_not_change_when_logits_are_scaled_and_shifted(seed, scale, shift):
    logits, y, target = draw(seed)
    changed = logits * scale + shift
    torch.testing.assert_close(dlr(changed, y), dlr(logits, y), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(targeted_dlr(changed, y, target), targeted_dlr(logits, y, target), rtol=1e-6, atol=1e-6)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_a_lower_true_logit_raises_every_label_loss(seed):
    logits, y, _ = draw(seed)
    worse = logits.scatter_add(1, y[:, None], torch.full((len(y), 1), -0.01, dtype=logits.dtype))
    assert (cross_entropy(worse, y) > cross_entropy(logits, y)).all()
    assert (cw_margin(worse, y) > cw_margin(logits, y)).all()


def test_kl_is_zero_for_equal_distributions_and_equals_its_definition_otherwise():
    logits, _, _ = draw(0)
    target_logits, _, _ = draw(1)
    p, q = target_logits.softmax(1), logits.softmax(1)
    torch.testing.assert_close(kl(logits, target_logits), (p * (p / q).log()).sum(1))
    torch.testing.assert_close(kl(logits, logits + 3), torch.zeros(len(logits), dtype=torch.float64))


def test_gradients_equal_finite_differences_pointwise():
    logits, y, target = draw(2)
    logits.requires_grad_()
    for loss in LABEL_LOSSES:
        assert gradcheck(lambda z, loss=loss: loss(z, y), logits)
    assert gradcheck(lambda z: targeted_dlr(z, y, target), logits)
    assert gradcheck(lambda z: kl(z, draw(3)[0]), logits)


@pytest.mark.parametrize(("loss", "classes"), [(dlr, 2), (cw_margin, 1)])
def test_too_few_classes_are_refused(loss, classes):
    with pytest.raises(ValueError, match=f"{loss.__name__} needs at least {classes + 1} classes"):
        loss(torch.zeros(1, classes), torch.zeros(1, dtype=torch.int64))


def test_targeted_dlr_refuses_three_classes():
    y = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match="at least 4 classes"):
        targeted_dlr(torch.zeros(1, 3), y, y + 1)
