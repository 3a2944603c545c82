"""Other bits for a network that was trained through quantization."""

import pytest
import torch
from nets import SCHEMES, images, quantized, small_resnet

from qra.quant import (
    LSQ,
    PACT,
    CalibratedUniform,
    DoReFa,
    LSQActivation,
    LSQPlus,
    QuantScheme,
    Uniform,
    quantize_after_training,
    requantize,
)


def test_one_layer_gets_other_bits_and_all_else_stays():
    network, expected = quantized(SCHEMES["pact"]), quantized(SCHEMES["pact"])
    with torch.no_grad():
        network.relu1.alpha.fill_(2.5)
    requantize(network, QuantScheme(DoReFa(), PACT(), 4, 4, overrides={"stages.0.0.conv1": "W2"}))
    changed, kept = network.stages[0][0].conv1, network.stages[0][0].conv2
    assert len(changed.weight_quantizer(changed.weight).unique()) == 4
    assert torch.equal(kept.weight_quantizer(kept.weight), kept.weight_quantizer(expected.stages[0][0].conv2.weight))
    assert network.relu1.alpha == 2.5
    assert torch.equal(changed.weight, expected.stages[0][0].conv1.weight)


@pytest.mark.parametrize("scheme", ["lsq", "uniform"])
def test_activations_keep_their_range_at_other_bits(scheme):
    network = quantized(SCHEMES[scheme])
    site = "relu1" if scheme == "lsq" else "fc.input_quantizer"
    before = network.get_submodule(site)(100 * images()).max().item()
    kinds = (LSQ(), LSQActivation()) if scheme == "lsq" else (Uniform(), CalibratedUniform())
    requantize(network, QuantScheme(*kinds, 3, 2))
    after = network.get_submodule(site)
    assert after.bit_width == 2
    assert after(100 * images()).max().item() == pytest.approx(before, rel=1e-5)


def test_a_learned_offset_keeps_the_lower_end_at_other_bits():
    network = quantized(QuantScheme(LSQ(), LSQPlus(), 8, 8))
    with torch.no_grad():
        network.fc.input_quantizer.step.fill_(0.02)
        network.fc.input_quantizer.offset.fill_(-1.0)
    requantize(network, QuantScheme(LSQ(), LSQPlus(), 8, 4))
    ends = network.fc.input_quantizer(torch.tensor([[-100.0, 100.0]]))[0]
    assert ends.tolist() == pytest.approx([-1.0, 4.1], abs=0.5 * 5.1 / 15)


def test_what_was_not_trained_so_is_refused():
    with pytest.raises(ValueError, match="the network is float"):
        requantize(small_resnet(), QuantScheme())
    with pytest.raises(ValueError, match="relu1 was trained with PACT, which LSQActivation cannot replace"):
        requantize(quantized(SCHEMES["pact"]), QuantScheme(DoReFa(), LSQActivation()))
    with pytest.raises(ValueError, match="the activations of relu1 were float in training"):
        requantize(quantized(SCHEMES["weights-only"]), QuantScheme())
    fixed = small_resnet()
    quantize_after_training(fixed, SCHEMES["pwlq"], images().split(4))
    with pytest.raises(ValueError, match="was quantized after training"):
        requantize(fixed, SCHEMES["pwlq"])


def test_a_learned_step_of_weights_is_kept_where_the_bits_stay():
    network = quantized(QuantScheme(LSQ(), PACT(), 4, 4))
    with torch.no_grad():
        network.conv1.weight_quantizer.step.fill_(0.3)
        network.stages[0][0].conv1.weight_quantizer.step.fill_(0.3)
    requantize(network, QuantScheme(LSQ(), PACT(), 4, 4, overrides={"stages.*": "W2"}))
    assert network.conv1.weight_quantizer.step.item() == pytest.approx(0.3)
    assert network.stages[0][0].conv1.weight_quantizer.step.item() != pytest.approx(0.3)
