from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qra.quant import LSQ, LSQActivation, lsq, lsq_initial_step


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ends(b: int, signed: bool) -> tuple[int, int]:
    return (-(2 ** (b - 1)), 2 ** (b - 1) - 1) if signed else (0, 2**b - 1)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("b", [2, 3, 8])
@pytest.mark.parametrize("shape", [(), (4,), (4, 1, 1)])
def test_values_and_gradients_are_those_of_the_definition(gradients, signed, b, shape):
    x, upstream = normal(0, 4, 5, 6), normal(1, 4, 5, 6)
    step = torch.full(shape, 3.0 / 2**b, dtype=torch.float64)

    def definition(x, step):
        clipped = (x / step.view(-1, 1, 1)).clamp(*ends(b, signed))
        return (clipped + (clipped.round() - clipped).detach()) * step.view(-1, 1, 1)

    y, x_grad, step_grad = gradients(lambda x, s: lsq(x, s, b, signed), [x, step], upstream)
    y_ref, x_ref, step_ref = gradients(definition, [x, step], upstream)
    features = x.numel() // step.numel()
    torch.testing.assert_close(y, y_ref)
    torch.testing.assert_close(x_grad, x_ref)
    torch.testing.assert_close(step_grad, step_ref / math.sqrt(features * ends(b, signed)[1]))


def test_the_step_gradient_is_divided_by_the_root_of_features_times_the_largest_code(gradients):
    x, upstream, step = normal(0, 8, 5), normal(1, 8, 5), torch.tensor(0.3, dtype=torch.float64)
    _, _, of_batch = gradients(lambda x, s: lsq(x, s, 3, True), [x, step], upstream)
    _, _, of_example = gradients(lambda x, s: lsq(x, s, 3, True, features=5), [x, step], upstream)
    torch.testing.assert_close(of_example, of_batch * math.sqrt(8))


def test_a_site_counts_the_features_of_one_example(gradients):
    x, upstream, step = normal(0, 8, 5), normal(1, 8, 5), torch.tensor(0.3, dtype=torch.float64)
    _, _, found = gradients(lambda x, s: LSQActivation().quantize(x, 3, {"step": s}, "ste"), [x, step], upstream)
    _, _, expected = gradients(lambda x, s: lsq(x, s, 3, False, features=5), [x, step], upstream)
    assert expected != 0
    torch.testing.assert_close(found, expected)


def test_the_gradient_of_the_step_is_summed_over_many_values(gradients):
    x, upstream, step = normal(0, 6, 2**16), normal(1, 6, 2**16), torch.tensor(0.3, dtype=torch.float64)

    def of(part):
        return gradients(lambda x, s: lsq(x, s, 3, True, features=1), [x[part], step], upstream[part])[2]

    torch.testing.assert_close(of(slice(None)), sum(of(slice(row, row + 1)) for row in range(6)))


@settings(max_examples=20, deadline=None)
@given(b=st.integers(2, 8), signed=st.booleans(), seed=st.integers(0, 2**31))
def test_levels_are_at_most_2_to_the_b_multiples_of_the_step(b, signed, seed):
    step = torch.tensor(0.05)
    y = lsq(normal(seed, 3000).float() * 3, step, b, signed)
    codes = y.unique() / step
    assert codes.numel() <= 2**b
    torch.testing.assert_close(codes, codes.round())
    assert torch.equal(lsq(y, step, b, signed), y)


def test_soft_gradients_are_those_of_the_identity_or_of_the_relu(gradients):
    x, upstream, step = normal(0, 300), normal(1, 300), torch.tensor(0.1, dtype=torch.float64)
    _, signed, _ = gradients(lambda x, s: lsq(x, s, 3, True, gradient="ste_soft"), [x, step], upstream)
    _, unsigned, _ = gradients(lambda x, s: lsq(x, s, 3, False, gradient="ste_soft"), [x, step], upstream)
    assert torch.equal(signed, upstream)
    assert torch.equal(unsigned, torch.where(x > 0, upstream, 0))


def test_the_hard_gradient_is_zero_with_the_same_values(gradients):
    x, step = normal(0, 300), torch.tensor(0.1, dtype=torch.float64)
    y, x_grad, _ = gradients(lambda x, s: lsq(x, s, 3, True, gradient="hard"), [x, step], torch.ones_like(x))
    assert torch.equal(x_grad, torch.zeros_like(x))
    assert torch.equal(y, lsq(x, step, 3, True))


def test_half_precision_is_computed_in_float32():
    x, step = normal(0, 2000).bfloat16(), torch.tensor(0.02)
    with torch.autocast("cpu", torch.bfloat16):
        y = lsq(x, step, 8, True)
    assert torch.equal(y, lsq(x.float(), step, 8, True))


@pytest.mark.parametrize("signed", [True, False])
def test_the_initial_step_is_that_of_the_paper(signed):
    x = normal(0, 500)
    expected = 2 * x.abs().mean() / math.sqrt(ends(4, signed)[1])
    torch.testing.assert_close(lsq_initial_step(x, 4, signed), expected)


def test_an_initial_step_of_zeros_is_refused():
    with pytest.raises(ValueError, match="the initial step is"):
        lsq_initial_step(torch.zeros(5), 4, True)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_the_step_must_be_finite_and_positive(bad):
    with pytest.raises(ValueError, match="step is"):
        lsq(torch.zeros(3), torch.tensor(bad), 4, True)


def test_a_layer_of_zeros_starts_from_a_step_of_its_own():
    step = LSQ().start(torch.zeros(10, 4), 4)["step"]
    assert step.item() == pytest.approx(0.01)
    assert torch.equal(LSQ().quantize(torch.zeros(10, 4), 4, {"step": step}), torch.zeros(10, 4))
