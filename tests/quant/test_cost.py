import itertools

import pytest
import torch
from nets import SCHEMES, images, quantized, small_resnet
from torch import nn

from qra import models
from qra.quant import (
    PACT,
    PWLQ,
    CalibratedUniform,
    DoReFa,
    LayerCost,
    QuantScheme,
    Uniform,
    convert,
    cost,
    quantize_after_training,
)
from qra.quant.statistics import activation_statistics, weight_statistics


def test_resnet20_has_the_published_parameters_and_multiply_adds():
    found = cost(models.resnet20(), (3, 32, 32))
    assert found.parameters == 269_722
    assert found.multiply_adds == 40_551_040
    assert found.size_in_bits == 32 * 269_722


def test_a_layer_counts_by_hand():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1, groups=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(6, 5),
    )
    convert(network, QuantScheme(DoReFa(), PACT(), 2, 3))
    found = cost(network, (3, 8, 8))
    assert found.layers == (
        LayerCost("0", 108, 8, 8, 8, 108 * 16, 1),
        LayerCost("2", 108, 2, 2, 3, 108 * 4, 1),
        LayerCost("6", 30, 8, 8, 3, 30, 1),
    )
    assert found.other_parameters == 4 + 6 + 5
    clip_levels, scales = 2, 3
    assert found.size_in_bits == 8 * 108 + 2 * 108 + 8 * 30 + 32 * (15 + clip_levels + scales)
    assert found.bit_ops == 8 * 8 * 108 * 16 + 2 * 3 * 108 * 4 + 8 * 3 * 30


def test_a_sum_of_quantized_values_has_32_bits_until_it_is_quantized():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu1, self.relu2 = nn.Conv2d(3, 3, 1), nn.ReLU(), nn.ReLU()
            self.next = nn.Conv2d(3, 2, 1)

        def forward(self, x):
            y = self.conv(x)
            return self.next(self.relu1(y) + self.relu2(y))

    network = Sum()
    convert(network, QuantScheme(act_bit_width=3, allow_float=["next"]))
    assert [layer.input_bits for layer in cost(network, (3, 4, 4)).layers] == [8, 32]


def test_layers_of_every_kind_are_counted():
    network = nn.Sequential(
        nn.ConvTranspose2d(3, 4, 2, stride=2, bias=False), nn.Flatten(2), nn.Conv1d(4, 5, 3, groups=1), nn.Flatten()
    )
    network.append(nn.Linear(5 * 62, 2))
    found = {layer.name: layer for layer in cost(network, (3, 4, 4)).layers}
    assert found["0"].multiply_adds == 3 * 4 * 4 * 16
    assert found["2"].multiply_adds == 4 * 5 * 3 * 62
    assert [layer.input_bits for layer in found.values()] == [8, 32, 32]


def test_what_is_not_counted_is_named():
    class Products(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.attention, self.fc = nn.Conv2d(3, 4, 1), nn.MultiheadAttention(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            x = self.conv(x).flatten(2).permute(2, 0, 1)
            x, _ = self.attention(x, x, x, need_weights=False)
            return self.fc((x @ x.transpose(1, 2) @ x).mean(0))

    found = cost(Products(), (3, 4, 4))
    assert [layer.name for layer in found.layers if layer.multiply_adds] == ["conv", "fc"]
    assert found.uncounted == (
        "MultiheadAttention attention",
        "matmul in the network itself",
        "matmul in the network itself",
    )


def test_batch_normalization_makes_quantized_values_float():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    convert(network, QuantScheme(allow_float=["3"]))
    assert [layer.input_bits for layer in cost(network, (3, 4, 4)).layers] == [8, 32]


def test_quantizers_at_inputs_quantize_the_image_too():
    scheme = QuantScheme(Uniform(), CalibratedUniform(), 4, 5)
    assert {layer.input_bits for layer in cost(quantized(scheme), (3, 16, 16)).layers} == {5}


def test_piecewise_weights_take_one_bit_more_in_memory():
    network = small_resnet()
    quantize_after_training(network, QuantScheme(PWLQ(), CalibratedUniform(), 3, 8, None), images().split(4))
    assert {(layer.weight_bits, layer.stored_bits) for layer in cost(network, (3, 16, 16)).layers} == {(3, 4)}


@pytest.mark.parametrize(
    ("weight", "corrected", "scales"),
    [
        (Uniform(), False, 8),
        (Uniform(per_channel=False), False, 1),
        (PWLQ(), False, 3 * 8),
        (PWLQ(), True, 4 * 8),
        (PWLQ("bisection", overlapping=True, per_channel=False), False, 2),
    ],
)
def test_the_size_is_that_of_the_codes_and_scales_that_are_stored(weight, corrected, scales):
    network = small_resnet()
    quantize_after_training(network, QuantScheme(weight, CalibratedUniform(), 3, 8, None), images().split(4), corrected)
    found = {layer.name: layer for layer in cost(network, (3, 16, 16)).layers}
    assert found["conv1"].scales == scales
    stored = network.conv1.weight_quantizer.state_dict()
    assert sum(value.numel() for name, value in stored.items() if name.startswith("scale")) == scales


def test_counting_works_before_calibration_and_leaves_the_network_as_it_was():
    network = small_resnet().train()
    convert(network, SCHEMES["pwlq"])
    described, tracked = str(network), network.bn1.num_batches_tracked.clone()
    cost(network, (3, 16, 16))
    assert str(network) == described
    assert network.training
    assert network.bn1.num_batches_tracked == tracked


# ----- statistics -----


def test_clipped_values_are_those_above_the_clip_level():
    network = quantized(QuantScheme(DoReFa(), PACT(alpha=0.5), 4, 4))
    sites = activation_statistics(network, images())
    assert sites.keys() == {"relu1", *(f"stages.{stage}.0.relu{i}" for stage in (0, 1) for i in (1, 2))}
    values = sites["relu1"].values
    assert sites["relu1"].clipped == pytest.approx((values > 0.5).float().mean().item(), abs=1e-6)
    assert sites["relu1"].quantized.max() == 0.5


def test_each_bit_of_activations_brings_about_six_decibels():
    snr = [
        activation_statistics(quantized(QuantScheme(DoReFa(), PACT(percentile=100), 32, b)), images())["relu1"].snr
        for b in (4, 5, 6, 7)
    ]
    assert [second - first for first, second in itertools.pairwise(snr)] == pytest.approx([6] * 3, abs=1.5)


def test_each_bit_of_weights_brings_about_six_decibels():
    snr = [weight_statistics(quantized(QuantScheme(Uniform(), PACT(), b, 32, None)))["fc"].snr for b in (4, 5, 6, 7)]
    assert [second - first for first, second in itertools.pairwise(snr)] == pytest.approx([6] * 3, abs=1.5)


def test_weights_on_another_scale_are_compared_at_their_own():
    kept, lost = (
        weight_statistics(quantized(QuantScheme(DoReFa(scale_preserving=which), PACT(), 6, 32)))["stages.0.0.conv1"]
        for which in ("all", "none")
    )
    assert lost.snr == pytest.approx(kept.snr, abs=1e-3)


def test_statistics_leave_the_network_as_it_was():
    network = quantized(SCHEMES["pact"]).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    activation_statistics(network, images())
    weight_statistics(network)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_each_number_that_an_activation_quantizer_holds_counts():
    network = quantized(SCHEMES["lsq-plus"], small_resnet())
    sites = sum(name.endswith("input_quantizer") for name, _ in network.named_modules())
    assert cost(network, (3, 16, 16)).activation_values == 2 * sites > 0
