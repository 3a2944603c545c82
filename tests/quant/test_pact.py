from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qra.quant import pact

BITS = range(2, 9)
some = settings(max_examples=25, deadline=None)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("i", range(4))
@pytest.mark.parametrize("j", range(7))
def test_values_and_gradients_equal_the_reference(pact_dorefa_sawb, gradients, i, j):
    golden = pact_dorefa_sawb
    alpha, b = golden["act.alpha"][i], int(golden["bits"][j])
    y, x_grad, alpha_grad = gradients(lambda x, a: pact(x, a, b), [golden["act.x"], alpha], golden["act.gy"])
    torch.testing.assert_close(y, golden["act.y"][i, j], rtol=0, atol=1e-5 * float(alpha))
    torch.testing.assert_close(x_grad, golden["act.gx"][i], rtol=0, atol=1e-4)
    torch.testing.assert_close(alpha_grad, golden["act.galpha"][i, j], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("b", [2, 3, 4, 8])
def test_ties_and_clip_ends_equal_the_reference_exactly(pact_dorefa_sawb, gradients, b):
    golden = pact_dorefa_sawb
    x, alpha = golden["edge.x"], golden["edge.alpha"]
    y, x_grad, alpha_grad = gradients(lambda x, a: pact(x, a, b), [x, alpha], torch.ones_like(x))
    torch.testing.assert_close(y, golden[f"edge.b{b}.y"], rtol=0, atol=1e-6)
    assert torch.equal(x_grad, golden[f"edge.b{b}.gx"])
    assert torch.equal(alpha_grad, golden[f"edge.b{b}.galpha"])


@some
@given(
    alpha=st.floats(2**-10, 2**10, width=32),
    b=st.sampled_from(BITS),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_a_value_exactly_at_alpha_or_zero_is_inside_the_clip(alpha, b, dtype):
    level = torch.tensor(alpha, dtype=dtype, requires_grad=True)
    x = torch.stack([level.detach(), torch.zeros((), dtype=dtype), -level.detach() * 1e-6, level.detach() * (1 + 1e-6)])
    x.requires_grad_()
    x_grad, alpha_grad = torch.autograd.grad(pact(x, level, b).sum(), (x, level))
    assert x_grad.tolist() == [1, 1, 0, 0]
    assert alpha_grad == 2


@some
@given(alpha=st.floats(0.1, 5), b=st.sampled_from(BITS), seed=st.integers(0, 2**31))
def test_levels_run_from_0_to_alpha_in_at_most_2_to_the_b_steps(alpha, b, seed):
    y = pact(normal(seed, 3000) * 4, alpha, b)
    levels = y.unique()
    assert levels.numel() <= 2**b
    assert levels[0] == 0
    assert levels[-1] == pytest.approx(alpha)
    assert torch.equal(pact(y, alpha, b), y)


def test_ste_soft_has_the_gradient_of_the_relu(gradients):
    x, upstream, alpha = normal(0, 500), normal(1, 500), torch.tensor(0.5)
    y, x_grad, alpha_grad = gradients(lambda x, a: pact(x, a, 3, "ste_soft"), [x, alpha], upstream)
    _, relu_grad = gradients(torch.relu, [x], upstream)
    assert torch.equal(x_grad, relu_grad)
    assert torch.equal(y, pact(x, alpha, 3))
    torch.testing.assert_close(alpha_grad, upstream[x >= alpha].sum())


def test_hard_has_the_true_gradients(gradients):
    x, upstream, alpha = normal(0, 500), normal(1, 500), torch.tensor(0.5)
    y, x_grad, alpha_grad = gradients(lambda x, a: pact(x, a, 3, "hard"), [x, alpha], upstream)
    assert torch.equal(x_grad, torch.zeros(500))
    assert torch.equal(y, pact(x, alpha, 3))
    torch.testing.assert_close(alpha_grad, (upstream * y / alpha).sum())


def test_the_gradient_reaches_x_alone_where_alpha_is_fixed(gradients):
    x, upstream = normal(0, 500), normal(1, 500)
    _, x_grad = gradients(lambda x: pact(x, 0.5, 3), [x], upstream)
    assert torch.equal(x_grad, torch.where((x >= 0) & (x <= 0.5), upstream, 0))


@pytest.mark.parametrize("shape", [(), (1,), (1, 4, 1, 1)])
def test_the_gradient_of_alpha_has_its_shape(gradients, shape):
    x, upstream, alpha = normal(0, 2, 4, 5, 5), normal(1, 2, 4, 5, 5), torch.full(shape, 0.5)
    _, _, alpha_grad = gradients(lambda x, a: pact(x, a, 3), [x, alpha], upstream)
    torch.testing.assert_close(alpha_grad, torch.where(x >= 0.5, upstream, 0).sum_to_size(shape))


def test_the_gradient_of_alpha_is_summed_over_many_values(gradients):
    x, upstream = normal(0, 6, 2**16).double(), normal(1, 6, 2**16).double()
    alpha = torch.tensor(0.5, dtype=torch.float64)
    _, _, alpha_grad = gradients(lambda x, a: pact(x, a, 3), [x, alpha], upstream)
    torch.testing.assert_close(alpha_grad, torch.where(x >= 0.5, upstream, 0).sum())


def test_a_channels_last_input_keeps_its_format_in_both_directions(gradients):
    x, upstream, alpha = normal(0, 2, 4, 5, 5), normal(1, 2, 4, 5, 5), torch.tensor(0.8)
    expected = gradients(lambda x, a: pact(x, a, 4), [x, alpha], upstream)
    last = torch.channels_last
    found = gradients(lambda x, a: pact(x, a, 4), [x.contiguous(memory_format=last), alpha], upstream)
    assert found[0].is_contiguous(memory_format=last)
    assert found[1].is_contiguous(memory_format=last)
    torch.testing.assert_close(found, expected)


def test_an_expanded_upstream_gradient_is_fine():
    x = normal(0, 3, 4).requires_grad_()
    alpha = torch.tensor(0.5, requires_grad=True)
    x_grad, _ = torch.autograd.grad(pact(x, alpha, 4).sum(), (x, alpha))
    assert torch.equal(x_grad, ((x >= 0) & (x <= 0.5)).float())


def test_codes_under_bf16_mixed_precision_are_those_of_float32():
    x, alpha = normal(0, 5000).bfloat16(), torch.tensor(2.1, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = pact(x, alpha, 8)
    assert y.dtype == torch.float32
    assert torch.equal((y * 255 / alpha).round(), (pact(x.float(), alpha, 8) * 255 / alpha).round())
    y.sum().backward()
    assert alpha.grad is not None
    assert alpha.grad.dtype == torch.float32


def test_the_input_stays_as_it_was():
    x = normal(0, 100)
    before = x.clone()
    pact(x, 0.5, 2)
    with torch.no_grad():
        pact(x, 0.5, 2)
    assert torch.equal(x, before)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_alpha_must_be_finite_and_positive(bad, kind):
    with pytest.raises(ValueError, match=r"alpha is .* finite and above 0"):
        pact(torch.zeros(3), kind(bad), 4)


@pytest.mark.parametrize("b", [0, 1, 9, 32])
def test_other_bit_widths_are_refused(b):
    with pytest.raises(ValueError, match="2 to 8"):
        pact(torch.zeros(3), 1.0, b)
