"""Calibration, BatchNorm statistics, and quantization after training."""

import copy

import pytest
import torch
from nets import SCHEMES, images, quantized, small_resnet
from torch import nn

from qra.quant import (
    LSQ,
    PACT,
    PWLQ,
    CalibratedUniform,
    DoReFa,
    Fixed,
    LeastSquares,
    LSQActivation,
    MinMax,
    Percentile,
    QuantScheme,
    TopK,
    Uniform,
    bias_correction,
    calibrate,
    convert,
    fold,
    freeze,
    quantize_after_training,
    reestimate_batch_norm,
)

# ----- the official pipeline on the tiny network of the golden vectors -----


@pytest.fixture(scope="module")
def golden(pwlq_activations):
    return pwlq_activations


def tiny_network(golden):
    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            channels = golden["net.sd.conv2.weight"].shape[:2]
            self.conv1 = nn.Conv2d(1, channels[1], 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(channels[1])
            self.relu1 = nn.ReLU()
            self.conv2 = nn.Conv2d(channels[1], channels[0], 3, stride=2, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(channels[0])
            self.relu2 = nn.ReLU()
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.fc = nn.Linear(*reversed(golden["net.sd.fc.weight"].shape))

        def forward(self, x):
            x = self.relu1(self.bn1(self.conv1(x)))
            return self.fc(self.pool(self.relu2(self.bn2(self.conv2(x)))).flatten(1))

    network = Tiny().eval()
    network.load_state_dict({k.removeprefix("net.sd."): v for k, v in golden.items() if k.startswith("net.sd.")})
    return network


def normalized(golden, name):
    return (golden[name].float() / 255 - golden["net.norm"][0]) / golden["net.norm"][1]


def test_folding_keeps_keys_and_logits(golden):
    network, x = tiny_network(golden), normalized(golden, "net.test_u8")
    keys = list(network.state_dict())
    fold(network)
    assert list(network.state_dict()) == keys
    assert torch.equal(network.bn1.weight, torch.ones_like(network.bn1.weight))
    torch.testing.assert_close(network(x), golden["net.fp_logits"], rtol=0, atol=1e-4)


def test_calibrated_ranges_are_the_official_ones(golden):
    network = tiny_network(golden)
    fold(network)
    convert(network, QuantScheme(PWLQ(), CalibratedUniform(), 8, 8, None))
    calibrate(network, normalized(golden, "net.cal_u8").split(4))
    for name in ("conv1", "conv2", "pool", "fc"):
        quantizer = network.get_submodule(name).input_quantizer
        official = [golden[f"net.bound.{name}.0.{end}"].item() for end in ("minv", "maxv")]
        assert [quantizer.low.item(), quantizer.high.item()] == pytest.approx(official, abs=1e-5)


@pytest.mark.parametrize("tag", ["u8a8", "p8a8", "u4a8", "p4a8", "p4a8bc", "p4a4", "p3a3bc", "p2a2"])
def test_quantized_weights_and_logits_are_the_official_ones(golden, tag):
    network, folded = tiny_network(golden), tiny_network(golden)
    fold(folded)
    weight = PWLQ() if tag[0] == "p" else Uniform()
    scheme = QuantScheme(weight, CalibratedUniform(TopK(10)), int(tag[1]), int(tag[3]), None)
    corrected = tag.endswith("bc")
    batches = normalized(golden, "net.cal_u8").split(4)
    assert quantize_after_training(network, scheme, batches, corrected).weight == Fixed(weight, corrected)
    logits = network(normalized(golden, "net.test_u8"))
    torch.testing.assert_close(logits, golden[f"net.{tag}.logits"], rtol=0, atol=1e-3)
    layers = [(network.get_submodule(name), folded.get_submodule(name)) for name in ("conv1", "conv2", "fc")]
    errors = torch.cat([(quantized.weight - original.weight).flatten() for quantized, original in layers])
    assert errors.double().square().mean().sqrt().item() == pytest.approx(float(golden[f"net.{tag}.rmse"]), rel=1e-4)


# ----- properties -----


def test_bias_correction_is_that_of_the_folded_weights():
    network, folded = small_resnet(), small_resnet()
    fold(folded)
    quantize_after_training(network, SCHEMES["pwlq"], images().split(4), bias_corrected=True)
    original = folded.conv1.weight
    expected = bias_correction(original, PWLQ().quantize(original, 4, {}))
    torch.testing.assert_close(network.conv1.weight, expected)


def test_a_learned_step_starts_from_the_folded_weights():
    scheme = QuantScheme(LSQ(), act_bit_width=32, weight_bit_width=4, first_last_bit_width=None)
    network, folded = small_resnet(), small_resnet()
    fold(folded)
    quantize_after_training(network, scheme, [])
    expected = LSQ().quantize(folded.conv1.weight, 4, LSQ().start(folded.conv1.weight, 4))
    torch.testing.assert_close(network.conv1.weight, expected)


def test_learned_activations_are_refused_after_training():
    with pytest.raises(ValueError, match="PACT must be trained"):
        quantize_after_training(small_resnet(), QuantScheme(), images().split(4))


def test_no_calibration_images_are_refused():
    with pytest.raises(ValueError, match="no range has been calibrated"):
        quantize_after_training(small_resnet(), SCHEMES["pwlq"], [])


def test_an_uncalibrated_network_says_so():
    network = small_resnet()
    convert(network, SCHEMES["pwlq"])
    with pytest.raises(ValueError, match="no range yet: calibrate"):
        network(images())


@pytest.mark.parametrize("ranges", [MinMax(), TopK(), TopK(5, "global"), Percentile(99.0), LeastSquares()])
def test_every_range_gives_a_signed_image_and_unsigned_activations(ranges):
    network = quantized(QuantScheme(Uniform(), CalibratedUniform(ranges), 8, 4))
    assert network.conv1.input_quantizer.low < 0
    assert network.stages[0][0].conv1.input_quantizer.low >= 0
    assert len(network.fc.input_quantizer(images()).unique()) <= 16


def test_clip_levels_are_calibrated_on_the_float_network():
    network = small_resnet()
    seen = []
    network.relu1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    network(images())
    largest = torch.cat(seen).max().item()
    network = quantized(QuantScheme(DoReFa(), PACT(percentile=100)))
    assert network.relu1.alpha.item() == pytest.approx(largest, rel=1e-3)
    network = quantized(QuantScheme(LSQ(), LSQActivation(percentile=100), 4, 3))
    assert network.relu1.step.item() == pytest.approx(largest / 7, rel=1e-3)


def test_clip_levels_stay_where_no_percentile_is_asked_for():
    assert quantized(QuantScheme(DoReFa(), PACT(alpha=6.0))).relu1.alpha == 6


def test_calibration_leaves_modes_and_statistics_alone():
    network = small_resnet()
    convert(network, SCHEMES["uniform"])
    network.train()
    network.stages[0].eval()
    modes = [module.training for module in network.modules()]
    statistics = copy.deepcopy(network.bn1.state_dict())
    calibrate(network, images().split(4))
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, statistics[name]) for name, value in network.bn1.state_dict().items())


def test_folding_takes_the_bias_of_a_convolution_along():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    reestimate_batch_norm(network, [images()])
    nn.init.uniform_(network[1].weight, -2, 2)
    nn.init.uniform_(network[0].bias, 1, 2)
    before = network(images())
    fold(network)
    torch.testing.assert_close(network(images()), before, rtol=1e-4, atol=1e-4)
    assert torch.equal(network[1].weight, torch.ones(4))


# ----- BatchNorm statistics -----


def test_statistics_are_the_means_over_the_batches():
    network = quantized(SCHEMES["pact"])
    batches = images(24).split(8)
    outputs = []
    hook = network.conv1.register_forward_hook(lambda module, inputs, output: outputs.append(output.detach()))
    reestimate_batch_norm(network, batches)
    hook.remove()
    means = torch.stack([output.mean((0, 2, 3)) for output in outputs]).mean(0)
    variances = torch.stack([output.var((0, 2, 3)) for output in outputs]).mean(0)
    torch.testing.assert_close(network.bn1.running_mean, means)
    torch.testing.assert_close(network.bn1.running_var, variances)
    assert network.bn1.momentum == 0.1
    assert not network.bn1.training
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_network_of_rescaled_weights_is_of_use_again():
    x = images(64)
    network = small_resnet()
    reestimate_batch_norm(network, [x])
    expected = network(x)
    quantized(QuantScheme(DoReFa(), PACT(percentile=99.9), 8, 8), network)
    stale = (network(x) - expected).square().mean()
    reestimate_batch_norm(network, [x])
    fresh = (network(x) - expected).square().mean()
    assert fresh < min(stale / 5, expected.var() / 5)


def test_statistics_of_no_images_are_refused():
    with pytest.raises(ValueError, match="no images"):
        reestimate_batch_norm(small_resnet(), [])


def test_statistics_that_cannot_be_estimated_leave_momenta_as_they_were():
    network = small_resnet()
    with pytest.raises(RuntimeError):
        reestimate_batch_norm(network, [images()[:, :2]])
    assert network.bn1.momentum == 0.1
    assert network.bn1.training == network.training


@pytest.mark.parametrize("edit", [lambda high: high.mul_(0.5), lambda high: high.data.mul_(0.5)], ids=["", "data"])
def test_a_calibrated_range_that_is_edited_in_place_counts(edit):
    network = quantized(SCHEMES["uniform"])
    quantizer, x = network.fc.input_quantizer, images()
    network(x)
    x, high = 100 * x, quantizer.high.item()
    assert quantizer(x).max() == pytest.approx(high)
    with torch.no_grad():
        edit(quantizer.high)
    assert quantizer(x).max() == pytest.approx(high / 2)
    assert quantizer.replay_state()[-1] == pytest.approx(high / 2)
    assert freeze(network).network.fc.input_quantizer(x).max() == pytest.approx(high / 2)
