"""Bits of single layers."""

import pytest
import torch
from nets import images, quantized, small_resnet

from qra import rebuild
from qra.describe import describe, differences
from qra.quant import PACT, CalibratedUniform, DoReFa, QuantScheme, Uniform, convert, cost


def bits(scheme, kind="weight"):
    return {site.name: site.bit_width for site in convert(small_resnet(), scheme) if site.kind == kind}


def test_the_last_pattern_that_matches_wins_also_over_the_ends():
    found = bits(QuantScheme(overrides={"stages.*": "W3", "stages.1.0.conv2": "W6", "fc": "W5"}))
    assert found == {
        "conv1": 8,
        "stages.0.0.conv1": 3,
        "stages.0.0.conv2": 3,
        "stages.1.0.conv1": 3,
        "stages.1.0.conv2": 6,
        "fc": 5,
    }
    assert bits(QuantScheme(overrides={"fc": "W5", "*": "W2"}))["fc"] == 2


def test_activations_have_bits_of_their_own_where_they_are_quantized():
    found = bits(QuantScheme(overrides={"stages.0.*": "W8A8", "relu1": "A2"}), "activation")
    assert found["relu1"] == 2
    assert found["stages.0.0.relu1"] == 8
    assert found["stages.1.0.relu1"] == 4
    at_inputs = QuantScheme(Uniform(), CalibratedUniform(), overrides={"fc": "A7"})
    assert bits(at_inputs, "input")["fc"] == 7


def test_32_bits_leave_one_layer_float_and_others_may_be_the_only_quantized_ones():
    assert "fc" not in bits(QuantScheme(overrides={"fc": "W32"}))
    alone = QuantScheme(weight_bit_width=32, act_bit_width=32, overrides={"fc": "W2"})
    assert bits(alone) == {"fc": 2}
    assert bits(alone, "activation") == {}


def test_a_network_computes_with_the_bits_of_its_layers():
    network = quantized(QuantScheme(DoReFa(), PACT(), 4, 4, overrides={"stages.0.0.conv1": "W2", "relu1": "A3"}))
    layer = network.stages[0][0].conv1
    assert len(layer.weight_quantizer(layer.weight).unique()) == 4
    assert len(network.relu1(torch.linspace(0, 10, 500)).unique()) == 8
    found = {layer.name: layer for layer in cost(network, (3, 16, 16)).layers}
    assert (found["stages.0.0.conv1"].weight_bits, found["stages.0.0.conv1"].input_bits) == (2, 3)


def test_a_star_marks_a_scheme_of_several_widths():
    assert str(QuantScheme(overrides={"fc": "W8"})) == "W4A4* (DoReFa weights, PACT activations)"
    assert str(QuantScheme()) == "W4A4 (DoReFa weights, PACT activations)"


def test_a_checkpoint_tells_the_bits_of_its_layers_and_an_older_one_had_none():
    scheme = QuantScheme(overrides={"stages.0.*": "W8A8", "fc": "W8"})
    assert rebuild.rebuild_scheme(describe(scheme)) == scheme
    older = describe(QuantScheme())
    del older["init_args"]["overrides"]
    assert not list(differences(older, describe(QuantScheme())))
    assert list(differences(older, describe(scheme))) == [f"overrides was None and is {scheme.overrides}"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"stage.0.*": "W8"}, r"no weights to quantize match 'stage\.0\.\*' \(W8\): they are named conv1, .*, \.\.\."),
        ({"relu1": "W8"}, "no weights to quantize match 'relu1'"),
        ({"fc": "W8A8"}, "no activations to quantize match 'fc'"),
        ({"fc": "W9"}, "overrides: fc: bit width 9 is not supported"),
        ({"fc": "A1"}, "overrides: fc: bit width 1 is not"),
        ({"fc": "8"}, "overrides: fc: '8' is not a bit width: write W8"),
        ({"fc": ""}, "overrides: fc: '' is not a bit width"),
        ({"fc": 8}, "overrides: fc: 8 is not a bit width"),
    ],
)
def test_overrides_that_say_nothing_are_refused_by_name(overrides, message):
    with pytest.raises(ValueError, match=message):
        convert(small_resnet(), QuantScheme(overrides=overrides))


def test_bits_that_a_quantizer_lacks_are_refused_by_its_name():
    class Even(Uniform):
        bit_widths = (2, 4, 8)

    for arguments in ({"weight_bit_width": 3}, {"first_last_bit_width": 3}, {"overrides": {"fc": "W3"}}):
        with pytest.raises(ValueError, match="Even cannot quantize to 3 bits, only to 2, 4, 8"):
            QuantScheme(Even(), **arguments)


def test_nothing_is_changed_when_a_pattern_matches_nothing():
    network = small_resnet()
    before = str(network)
    with pytest.raises(ValueError, match="no weights"):
        convert(network, QuantScheme(overrides={"nowhere": "W2"}))
    assert str(network) == before
    network(images())
