from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qra.quant import uniform_affine, uniform_symmetric, uniform_unsigned

BITS = range(2, 9)
some = settings(max_examples=20, deadline=None)
bits = st.sampled_from(BITS)
seeds = st.integers(0, 2**31)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


QUANTIZERS = {
    "symmetric": lambda x, b, **kw: uniform_symmetric(x, b, 1.3, **kw),
    "unsigned": lambda x, b, **kw: uniform_unsigned(x, b, 1.3, **kw),
    "affine": lambda x, b, **kw: uniform_affine(x, b, -0.4, 1.3, **kw),
}
RANGES = {"symmetric": (-1.3, 1.3), "unsigned": (0.0, 1.3), "affine": (-0.4, 1.3)}
each = pytest.mark.parametrize("kind", QUANTIZERS)


@pytest.mark.parametrize("b", BITS)
def test_activations_equal_the_official_values(pwlq_activations, b):
    golden = pwlq_activations
    unsigned = uniform_unsigned(golden["relu.x"], b, golden["relu.maxv"])
    torch.testing.assert_close(unsigned, golden[f"relu.b{b}.q"], rtol=0, atol=1e-5)
    max_abs = torch.maximum(-golden["signed.minv"], golden["signed.maxv"])
    signed, stable = uniform_symmetric(golden["signed.x"], b, max_abs), golden[f"signed.b{b}.stable"]
    torch.testing.assert_close(signed[stable], golden[f"signed.b{b}.q"][stable], rtol=0, atol=1e-5)


@pytest.mark.parametrize("b", BITS)
def test_hand_made_grids_equal_the_official_values(pwlq_weights, b):
    x, m, p = (pwlq_weights[f"hand.{name}"] for name in "xmp")
    for name, ours in (("sym", uniform_symmetric(x, b, m)), ("aff", uniform_affine(x, b, p, m))):
        stable = pwlq_weights[f"hand.uniform_{name}.b{b}.stable"]
        official = pwlq_weights[f"hand.uniform_{name}.b{b}.q"]
        torch.testing.assert_close(ours[stable], official[stable], rtol=0, atol=1e-5)


@pytest.mark.parametrize("granularity", ["ch", "layer"])
@pytest.mark.parametrize("source", ["gauss", "laplace", "uniform", "conv", "linear"])
def test_weights_equal_the_official_values(pwlq_weights, source, granularity):
    w = pwlq_weights[f"{source}.w"].double()
    max_abs = w.abs().flatten(1).amax(1) if granularity == "ch" else w.abs().max()
    key = f"{source}.uniform.{granularity}"
    for i, b in enumerate(pwlq_weights["bits"].tolist()):
        stable = pwlq_weights[f"{key}.stable"][i]
        error = (uniform_symmetric(w, b, max_abs) - pwlq_weights[f"{key}.qw"][i]).abs()
        worst = error.flatten(1).amax(1) if granularity == "ch" else error.max()
        assert (worst <= 2e-5 * max_abs)[stable].all()


@each
@some
@given(b=bits, seed=seeds)
def test_there_are_at_most_2_to_the_b_levels(kind, b, seed):
    assert QUANTIZERS[kind](normal(seed, 3000), b).unique().numel() <= 2**b


@each
@some
@given(b=bits, seed=seeds)
def test_quantizing_twice_changes_nothing(kind, b, seed):
    once = QUANTIZERS[kind](normal(seed, 500), b)
    assert torch.equal(QUANTIZERS[kind](once, b), once)


@each
@some
@given(b=bits, seed=seeds)
def test_values_in_range_move_by_at_most_half_a_step(kind, b, seed):
    low, high = RANGES[kind]
    x = normal(seed, 500).double().clamp(low, high)
    assert (QUANTIZERS[kind](x, b) - x).abs().max() <= (high - low) / (2**b - 1) / 2 + 1e-12


@each
@pytest.mark.parametrize("b", [2, 8])
def test_ste_passes_the_gradient_inside_the_range_only(kind, b, gradients):
    low, high = RANGES[kind]
    x, upstream = normal(0, 400), normal(1, 400)
    x[:2] = torch.tensor([low, high])
    _, grad = gradients(lambda x: QUANTIZERS[kind](x, b), [x], upstream)
    inside = (x >= torch.tensor(low)) & (x <= torch.tensor(high))
    assert torch.equal(grad, torch.where(inside, upstream, 0))


@each
def test_ste_soft_passes_every_gradient(kind, gradients):
    x, upstream = normal(0, 400), normal(1, 400)
    _, grad = gradients(lambda x: QUANTIZERS[kind](x, 3, gradient="ste_soft"), [x], upstream)
    assert torch.equal(grad, upstream)


@each
def test_hard_passes_a_gradient_of_zero(kind, gradients):
    x = normal(0, 400)
    value, grad = gradients(lambda x: QUANTIZERS[kind](x, 3, gradient="hard"), [x], torch.ones(400))
    assert torch.equal(grad, torch.zeros(400))
    assert torch.equal(value, QUANTIZERS[kind](x, 3))


@each
def test_values_are_the_same_with_and_without_a_gradient(kind):
    x = normal(0, 400).requires_grad_()
    with torch.no_grad():
        expected = QUANTIZERS[kind](x, 4)
    assert torch.equal(QUANTIZERS[kind](x, 4), expected)


@pytest.mark.parametrize("shape", [(5,), (5, 1, 1, 1)])
def test_per_channel_ranges_quantize_each_channel_on_its_own(shape):
    x = normal(0, 5, 4, 3, 3)
    high = x.abs().flatten(1).amax(1)
    for together, alone in (
        (uniform_symmetric(x, 3, high.view(shape)), [uniform_symmetric(c, 3, h) for c, h in zip(x, high, strict=True)]),
        (uniform_unsigned(x, 3, high.view(shape)), [uniform_unsigned(c, 3, h) for c, h in zip(x, high, strict=True)]),
        (
            uniform_affine(x, 3, 0.1, high.view(shape)),
            [uniform_affine(c, 3, 0.1, h) for c, h in zip(x, high, strict=True)],
        ),
    ):
        assert torch.equal(together, torch.stack(alone))


@each
def test_half_precision_is_computed_in_float32(kind):
    x = normal(0, 2000).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        result = QUANTIZERS[kind](x, 8)
    assert result.dtype == torch.float32
    assert torch.equal(result, QUANTIZERS[kind](x.float(), 8))


@each
def test_the_input_stays_as_it_was(kind):
    x = normal(0, 100)
    before = x.clone()
    QUANTIZERS[kind](x, 2)
    QUANTIZERS[kind](x, 2, gradient="hard")
    assert torch.equal(x, before)


def test_a_channel_of_zeros_stays_zero():
    x = torch.stack([torch.zeros(6), torch.ones(6)])
    high = x.abs().amax(1)
    for result in (uniform_symmetric(x, 4, high), uniform_unsigned(x, 4, high), uniform_affine(x, 4, -high, high)):
        assert torch.equal(result[0], torch.zeros(6))
        assert result.isfinite().all()


@each
@pytest.mark.parametrize("b", [-1, 0, 1, 9, 32, 33])
def test_other_bit_widths_are_refused(kind, b):
    with pytest.raises(ValueError, match=f"bit width {b} .*2 to 8"):
        QUANTIZERS[kind](torch.zeros(3), b)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_ranges_of_numbers_must_be_finite_and_in_order(bad):
    x = torch.zeros(3)
    for quantize in (
        lambda: uniform_symmetric(x, 4, bad),
        lambda: uniform_unsigned(x, 4, bad),
        lambda: uniform_affine(x, 4, 0.0, bad),
    ):
        with pytest.raises(ValueError, match="range"):
            quantize()
