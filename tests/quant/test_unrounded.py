"""The network without the rounding of its activations."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from qra.quant import (
    PACT,
    ActivationQuantizer,
    CalibratedUniform,
    DoReFa,
    LSQActivation,
    LSQPlus,
    QuantScheme,
    calibrate,
    convert,
    freeze,
    unrounded,
)
from qra.quant.grid import Grid
from qra.quant.network import activation_quantizers
from qra.quant.unrounded import Clip, check_unrounded


def network(activation, bits=4):
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
    ).eval()
    convert(layers, QuantScheme(DoReFa(), activation, 4, bits, first_last_bit_width=None))
    return layers


def images(n=16):
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "activation", [PACT(0.5), LSQActivation(0.5, None), LSQPlus(), CalibratedUniform()], ids=lambda a: type(a).__name__
)
def test_each_site_gives_the_clipped_value_that_it_would_round(activation):
    quantized = network(activation)
    calibrate(quantized, [images()])
    free = unrounded(quantized)
    x = torch.linspace(-3, 3, 1001)
    for name, quantizer in activation_quantizers(quantized).items():
        clipped, rounded = free.get_submodule(name)(x), quantizer(x.clone())
        step = float(quantizer.grid().scale)
        assert (clipped - rounded).abs().max() <= step / 2 + 1e-5
        torch.testing.assert_close(torch.stack(clipped.aminmax()), torch.stack(rounded.aminmax()))
        assert len(clipped.unique()) > len(rounded.unique())


def test_weights_and_clip_levels_stay_as_they_are():
    quantized = network(PACT(0.5))
    free = unrounded(quantized)
    x = images()
    with torch.no_grad():
        features, expected = free[:2](x), quantized[:2](x)
    torch.testing.assert_close(features, expected, rtol=0, atol=0)
    assert not activation_quantizers(free)
    assert activation_quantizers(quantized)


def test_it_nears_the_network_with_more_bits():
    apart = []
    for bits in (2, 4, 8):
        quantized = network(PACT(0.5), bits)
        with torch.no_grad():
            apart.append(float((unrounded(quantized)(images()) - quantized(images())).abs().max()))
    assert apart[0] > apart[1] > apart[2]


def test_gradients_pass_inside_of_the_clip_range_only():
    quantized = network(PACT(0.5))
    clip = unrounded(quantized)[2]
    x = torch.tensor([-0.1, 0.2, 0.4, 0.6], requires_grad=True)
    clip(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0]


def test_a_network_that_rounds_no_activations_has_none():
    assert unrounded(network(PACT(), 32)) is None
    assert freeze(network(PACT(), 32)).unrounded() is None


def test_the_attack_time_copy_makes_it_once_and_again_after_a_refresh():
    quantized = network(PACT(0.5))
    copy = freeze(quantized)
    first = copy.unrounded()
    assert copy.unrounded() is first
    with torch.no_grad():
        quantized[2].alpha.fill_(0.1)
    again = copy.refresh().unrounded()
    assert again is not first
    with torch.no_grad():
        torch.testing.assert_close(again(images()), unrounded(quantized)(images()))


@dataclass(frozen=True)
class Halves(ActivationQuantizer):
    """A quantizer of one's own without a grid."""

    def start(self, bit_width):
        return {"alpha": 1.0}

    def quantize(self, x, bit_width, state, gradient):
        return x + ((2 * x.relu()).round() / 2 - x).detach()


def test_a_quantizer_that_says_no_grid_is_named_as_not_available():
    with pytest.raises(ValueError, match=r"the unrounded network is not available: at 2, Halves .* define grid"):
        unrounded(network(Halves()))


def test_a_quantizer_that_is_off_stays_a_relu():
    quantized = network(PACT(0.5))
    quantized[2].enabled = False
    assert not unrounded(quantized)[2].enabled


def test_what_is_not_calibrated_yet_can_be_checked():
    check_unrounded(network(CalibratedUniform()))


def test_clipping_goes_to_both_ends_of_a_grid_of_either_sign():
    clip = Clip(Grid(torch.tensor(0.5), range(-8, 8), 2))
    assert clip(torch.tensor([-9.0, -1.0, 9.0])).tolist() == [-5.0, -1.0, 2.5]
