from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import images
from torch import nn

from qra.quant import LSQ, LSQPlus, QuantScheme, Range, calibrate, convert, float_mode, lsq_plus
from qra.quant.learned import LearnedValues

float64 = torch.float64


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=float64)


def value(number: float) -> torch.Tensor:
    return torch.tensor(number, dtype=float64)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zero_point", [-1, -3])
def test_values_and_gradients_are_those_of_the_paper(gradients, bits, zero_point):
    x, upstream, step = normal(0, 6, 50), normal(1, 6, 50), value(2.5 / 2**bits)
    offset, levels = zero_point * step, 2**bits - 1

    def paper(x, step, offset):
        clipped = ((x - offset) / step).clamp(0, levels)
        return (clipped + (clipped.round() - clipped).detach()) * step + offset

    found = gradients(lambda *args: lsq_plus(*args, bits), [x, step, offset], upstream)
    expected = gradients(paper, [x, step, offset], upstream)
    scale = 1 / math.sqrt(50 * levels)
    for one, other, factor in zip(found, expected, (1, 1, scale, scale), strict=True):
        torch.testing.assert_close(one, other * factor)


@settings(max_examples=20, deadline=None)
@given(bits=st.integers(2, 8), offset=st.floats(-9, 3), seed=st.integers(0, 2**31))
def test_levels_are_whole_steps_with_zero_among_them(bits, offset, seed):
    step, offset = torch.tensor(4 / (2**bits - 1)), torch.tensor(offset)
    y = lsq_plus(normal(seed, 4, 500).float() * 3, step, offset, bits)
    codes = (y / step).unique()
    assert len(codes) <= 2**bits
    torch.testing.assert_close(codes, codes.round(), rtol=1e-5, atol=1e-5)
    assert lsq_plus(torch.zeros(1, 1), step, offset, bits) == 0
    assert torch.equal(lsq_plus(y, step, offset, bits), y)


def test_an_offset_of_zero_gets_no_gradient(gradients):
    inputs = [normal(0, 5, 20), value(0.1), value(0.0)]
    *_, offset_grad = gradients(lambda *args: lsq_plus(*args, 3), inputs, normal(1, 5, 20))
    assert offset_grad == 0


def test_the_soft_gradient_is_the_identity_and_the_hard_one_zero(gradients):
    inputs, upstream = [normal(0, 5, 20), value(0.1), value(-0.2)], normal(1, 5, 20)
    _, soft, *_ = gradients(lambda *args: lsq_plus(*args, 3, gradient="ste_soft"), inputs, upstream)
    y, hard, *_ = gradients(lambda *args: lsq_plus(*args, 3, gradient="hard"), inputs, upstream)
    assert torch.equal(soft, upstream)
    assert not hard.any()
    assert torch.equal(y, lsq_plus(*inputs, 3))


def test_half_precision_is_computed_in_float32():
    x, step, offset = normal(0, 4, 500).bfloat16(), torch.tensor(0.02), torch.tensor(-1.0)
    assert torch.equal(lsq_plus(x, step, offset, 8), lsq_plus(x.float(), step, offset, 8))


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_the_step_must_be_finite_and_positive(bad):
    with pytest.raises(ValueError, match="step is"):
        lsq_plus(torch.zeros(1, 3), torch.tensor(bad), torch.tensor(0.0), 4)


@pytest.mark.parametrize(("low", "offset"), [(-0.5, -0.5), (0.0, 0.0), (0.3, 0.0)])
def test_the_range_of_a_site_says_whether_it_has_an_offset(low, offset):
    start = LSQPlus().from_range(Range(low, 2.5), 4)
    assert start["offset"] == offset
    assert start["step"] == pytest.approx((2.5 - offset) / 15)


# ----- in a network -----


def silu_network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4, 3))


def plus(bits=4):
    return QuantScheme(LSQ(), LSQPlus(percentile=100), bits, bits)


def test_it_sits_at_the_inputs_of_layers_but_not_at_the_image():
    sites = convert(silu_network(), plus())
    assert [site.name for site in sites if site.kind == "input"] == ["2", "6"]


def test_calibration_finds_where_an_offset_is_needed():
    network = silu_network()
    convert(network, plus())
    calibrate(network, [images()])
    assert network[2].input_quantizer.offset < 0
    assert network[6].input_quantizer.offset == 0
    with float_mode(network):
        expected = network(images())
    convert(again := silu_network(), plus(8))
    calibrate(again, [images()])
    torch.testing.assert_close(again(images()), expected, rtol=0.05, atol=0.02)


def test_training_moves_steps_and_offsets_and_leaves_offsets_negative():
    network = silu_network()
    convert(network, plus(2))
    calibrate(network, [images()])
    site = network[2].input_quantizer
    before = site.step.item(), site.offset.item()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    learned = LearnedValues(network)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images()), torch.arange(8) % 3).backward()
        optimizer.step()
        learned.keep_positive()
    assert site.step.item() != before[0]
    assert site.offset.item() != before[1]
    assert site.offset < 0
    assert network[6].input_quantizer.offset == 0
