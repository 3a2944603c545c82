"""``qra.quantize`` gives a quantized copy, of images in any of the usual forms."""

import copy

import pytest
import torch
from torch import nn

import qra
from qra.models import ResNet
from qra.quant import PACT, PWLQ, CalibratedUniform, DoReFa, QuantScheme, dorefa_weight, quantize_after_training


@pytest.fixture
def network():
    torch.manual_seed(0)
    return ResNet((1, 1), (8, 16)).eval()


BYTES = torch.randint(0, 256, (8, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
IMAGES = BYTES / 255


def test_bits_stand_for_pwlq_after_training(network):
    quantized = qra.quantize(network, "W4A8", IMAGES)
    quantize_after_training(network, QuantScheme(PWLQ(), CalibratedUniform(), 4, 8, None), IMAGES.split(4))
    assert torch.equal(quantized(IMAGES), network(IMAGES))


def test_the_network_stays_as_it_is(network):
    before = network.train()(IMAGES).detach(), dict(network.named_modules()).keys()
    network.eval()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    qra.quantize(network, "W4A8", IMAGES)
    assert dict(network.named_modules()).keys() == before[1]
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("calibration", [BYTES, IMAGES.double(), IMAGES.split(4)], ids=["bytes", "double", "batches"])
def test_calibration_is_read_in_its_usual_forms(network, calibration):
    quantized = qra.quantize(network, "W4A8", calibration)
    assert torch.allclose(quantized(IMAGES), qra.quantize(network, "W4A8", IMAGES)(IMAGES), atol=1e-5)


def test_a_scheme_that_learns_gives_the_start_of_a_training(network):
    scheme = QuantScheme(activation=PACT(percentile=99.9))
    alpha = qra.quantize(network, scheme, IMAGES).relu1.alpha
    assert alpha.requires_grad
    assert 0 < alpha.item() < scheme.activation.alpha


@pytest.mark.parametrize(
    ("scheme", "calibration", "said"),
    [
        ("W4A8", IMAGES[:0], "holds no images"),
        ("W4A8", IMAGES * 255, "divide bytes by 255"),
        ("W4A8", IMAGES[0], "is needed"),
        ("W4A8", [(IMAGES, torch.zeros(len(IMAGES)))], r"holds a tuple: .*\(x for x, y in loader\)"),
        ("4 bits", IMAGES, "is not a bit width"),
        ("W9A8", IMAGES, "weight_bit_width"),
    ],
)
def test_what_does_not_fit_is_refused(network, scheme, calibration, said):
    with pytest.raises(ValueError, match=said):
        qra.quantize(network, scheme, calibration)


@pytest.mark.parametrize("scheme", ["W4A8", QuantScheme()], ids=str)
def test_half_precision_is_refused(network, scheme):
    with pytest.raises(ValueError, match=r"is float16: make it float32, by network\.float\(\)"):
        qra.quantize(copy.deepcopy(network).half(), scheme, IMAGES)


@pytest.mark.parametrize("weight", [DoReFa(), DoReFa(scale_preserving="all")], ids=str)
def test_the_last_layer_keeps_its_scale_after_training_too(network, weight):
    scheme = QuantScheme(weight, CalibratedUniform(), 8, 32, None)
    quantized = qra.quantize(network, scheme, IMAGES)
    last, name = [(m, name) for name, m in quantized.named_modules() if isinstance(m, nn.Linear)][-1]
    expected = dorefa_weight(network.get_submodule(name).weight, 8, scale_preserving=True)
    torch.testing.assert_close(last.weight, expected.detach())


def test_a_quantized_network_is_refused(network):
    quantized = qra.quantize(network, "W4A8", IMAGES)
    with pytest.raises(ValueError, match="already quantized"):
        qra.quantize(quantized, "W4A8", IMAGES)


def test_a_network_without_layers_is_refused():
    with pytest.raises(ValueError, match=r"no nn\.Conv2d"):
        qra.quantize(nn.Flatten(), "W4", IMAGES)


@pytest.mark.parametrize("scheme", ["W32A32", QuantScheme(weight_bit_width=32, act_bit_width=32)], ids=str)
def test_a_scheme_that_quantizes_nothing_is_refused(network, scheme):
    with pytest.raises(ValueError, match="W32A32 leaves the whole network float: give at most 8 bits, such as W4A8"):
        qra.quantize(network, scheme, IMAGES)
