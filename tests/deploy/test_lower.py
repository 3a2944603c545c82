"""What can be lowered, and what is refused by name."""

from dataclasses import dataclass

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from small import (
    CALIBRATED,
    LSQ_PLUS,
    TRAINED,
    calibrated,
    images,
    in_float64,
    programmed,
    resnet,
    run,
    spread_statistics,
    trained,
    usual,
)
from torch import nn
from torch.nn import functional as F
from zoo import PreAct

from qra.deploy.lower import lower
from qra.deploy.onnx import to_onnx
from qra.models import Normalized
from qra.quant import PACT, DoReFa, QuantScheme


class Plain(nn.Module):
    """Convolutions with biases and groups, both poolings, and two linear layers."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 12, 3, padding=1, groups=2)),
            *(nn.BatchNorm2d(12), nn.ReLU(), nn.AvgPool2d(2, 1)),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(48, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 10))

    def forward(self, x):
        return self.classifier(self.features(x))


def normalized(network):
    torch.manual_seed(0)
    made = network()
    spread_statistics(made)
    return Normalized(made).eval()


def check(network, size=16):
    program, twin = programmed(network, size)
    x = images(3, size)
    logits = twin(x)
    assert torch.equal(run(to_onnx(program), x)[0], logits)
    expected = in_float64(network)((x.double() * 255).round() / 255)
    assert torch.allclose(logits.double(), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("name", usual(["W4A4-DoReFa", "W8A8-DoReFa", "W4A8-LSQ", "W3A3-Uniform"], ("W8A8-DoReFa",)))
@torch.no_grad()
def test_a_plain_network_trained_through_quantization_is_lowered(name):
    check(trained(TRAINED[name], normalized(Plain)))


@pytest.mark.parametrize("name", usual(CALIBRATED, ("pwlq",)))
@torch.no_grad()
def test_a_plain_network_quantized_after_training_is_lowered(name):
    check(calibrated(CALIBRATED[name], True, normalized(Plain)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["W4A4-DoReFa", "pwlq"])
@torch.no_grad()
def test_resnet18_of_torchvision_is_lowered(name):
    network = normalized(lambda: torchvision.models.resnet18(num_classes=10))
    check(calibrated(CALIBRATED[name], False, network) if name in CALIBRATED else trained(TRAINED[name], network), 32)


@torch.no_grad()
def test_with_one_mean_and_one_deviation_the_first_layer_is_an_ordinary_one():
    network = resnet()
    network.normalize.mean.fill_(128 / 255)
    network.normalize.std.fill_(0.25)
    network = trained(TRAINED["W4A4-DoReFa"], network)
    assert programmed(network)[0]["conv1"].groups == 1
    check(network)


@pytest.mark.filterwarnings("ignore:ReLUs that are called as functions")
@torch.no_grad()
def test_sums_that_are_used_twice_are_lowered():
    network = trained(TRAINED["W4A4-DoReFa"], normalized(lambda: PreAct((4, 4), 2)))
    check(network)
    program, twin = programmed(network)
    logits = run(to_onnx(program, "qdq"), images(8), options=[("session.disable_quant_qdq", "1")])[0]
    assert torch.equal(logits.argmax(1), twin(images(8)).argmax(1))


@given(st.data())
@settings(max_examples=8, deadline=None)
@torch.no_grad()
def test_networks_of_two_convolutions_are_lowered(data):
    channels, kernel, stride, padding = (data.draw(st.integers(low, 4)) for low in (1, 1, 1, 0))
    bias, gains = data.draw(st.booleans()), data.draw(st.lists(st.sampled_from([-1.5, 0.0, 0.7]), min_size=4))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    network = nn.Sequential(
        *(nn.Conv2d(3, channels, kernel, stride, padding, bias=bias), nn.BatchNorm2d(channels), nn.ReLU()),
        *(nn.Conv2d(channels, 5, 1, bias=bias), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)),
    )
    network[1].weight.copy_(torch.tensor(gains[:channels]))
    name = data.draw(st.sampled_from(sorted(TRAINED)))
    check(trained(TRAINED[name], Normalized(network).eval()))


def beside(network, x):
    """Sum of a convolution and of the image, with a channel of zeros."""
    network.conv.padding = (1, 1)
    found = network.relu(network.conv(x) + F.pad(x - 0.5, (0, 0, 0, 0, 1, 0)))
    return network.fc(network.flatten(network.pool(found)))


@pytest.mark.parametrize(
    "change",
    [
        lambda network, x: forward(network, F.max_pool2d(1 - x, 2)),
        lambda network, x: forward(network, F.max_pool2d(x / -0.5, 2)),
        lambda network, x: forward(network, F.avg_pool2d(x - 0.5, 2, divisor_override=3)),
        lambda network, x: forward(network, 0.5 - x[:, :, ::2, ::2]),
        lambda network, x: forward(network, x - F.max_pool2d(x, 3, 1, 1)),
        beside,
    ],
    ids=["negative", "divided", "average", "places", "difference", "channels"],
)
@torch.no_grad()
def test_an_image_that_was_scaled_and_moved_is_taken_apart_as_it_is(change):
    torch.manual_seed(0)
    check(calibrated(CALIBRATED["uniform-layer"], False, Changed(change).eval()))


@torch.no_grad()
def test_each_value_of_a_flat_image_has_the_factor_of_its_channel():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.ReLU(), nn.Linear(8, 4))
    mean, std = (0.2, 0.5, 0.8), (0.1, 0.3, 0.9)
    check(calibrated(CALIBRATED["uniform-layer"], False, Normalized(network, mean, std).eval()))


# ----- refused -----


def test_hooks_of_the_network_itself_which_tracing_does_not_see_are_refused():
    network = calibrated(CALIBRATED["uniform-layer"], False, Changed(forward).eval())
    network.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    with pytest.raises(ValueError, match="the network has hooks of its own, which tracing does not see: remove them"):
        lower(network, (16, 16))


@dataclass(frozen=True)
class Halves(DoReFa):
    """A quantizer of one's own that says no grid."""

    def quantize(self, w, bit_width, learned):
        return (w * 2).round() / 2


class Changed(nn.Module):
    """A network whose forward pass is changed."""

    def __init__(self, change):
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 10)
        self.pool, self.flatten, self.change = nn.AdaptiveAvgPool2d(1), nn.Flatten(), change

    def forward(self, x):
        return self.change(self, x)


def forward(network, x):
    return network.fc(network.flatten(network.pool(network.relu(network.conv(x)))))


CHANGES = {
    "sigmoid": (lambda n, x: torch.sigmoid(forward(n, x)), "sigmoid in the network itself has no integer form"),
    "two outputs": (lambda n, x: (forward(n, x), x), "several outputs"),
    "a product": (lambda n, x: forward(n, x) * forward(n, x), "more than one place|multiplying two values"),
    "a tensor made on the way": (lambda n, x: forward(n, x + torch.ones(3, 16, 16)), "make it a buffer"),
    "dropout that is always on": (lambda n, x: F.dropout(forward(n, x)), "in eval mode too"),
    "values in a list": (lambda n, x: torch.cat([forward(n, x), x.flatten(1)], 1), "cat in the network itself has no"),
    "arithmetic with the batch": (
        lambda n, x: forward(n, x).view(x.size(0) // 1, -1),
        "floordiv in the network itself",
    ),
    "odd slices": (lambda n, x: forward(n, x[:, :, 1:, 1:]), "only strided rows"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_not_known_is_refused_by_name(name):
    change, reason = CHANGES[name]
    with pytest.raises(ValueError, match=reason):
        lower(trained(QuantScheme(DoReFa(), PACT()), Changed(change).eval()), (16, 16))


def softmaxed():
    network = resnet()
    network.fc = nn.Sequential(network.fc, nn.Softmax(1))
    return network


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (resnet, "the network is float: quantize it"),
        (lambda: trained(QuantScheme(DoReFa(), PACT(), 4, 32)), "stages.0.0.conv1 has float inputs"),
        (lambda: trained(QuantScheme(DoReFa(), PACT(), 32, 4, None)), "conv1 has float weights"),
        (
            lambda: trained(QuantScheme(Halves(), PACT())),
            "conv1: Halves does not define which integers its weights are",
        ),
        (lambda: trained(LSQ_PLUS, Normalized(Plain()).eval()), "features.6 averages float values over overlapping"),
        (lambda: trained(TRAINED["W4A4-DoReFa"], softmaxed()), r"fc.1 \(Softmax\) has no integer form"),
    ],
)
def test_networks_without_integers_everywhere_are_refused(network, reason):
    with pytest.raises(ValueError, match=reason):
        lower(network(), (16, 16))


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_a_clip_level_that_is_none_is_refused(alpha):
    network = trained(TRAINED["W4A4-DoReFa"])
    with torch.no_grad():
        network.relu1.alpha.fill_(alpha)
    with pytest.raises(ValueError, match="relu1: its scale is"):
        lower(network, (16, 16))


def test_a_network_that_was_not_calibrated_is_refused():
    network = calibrated(CALIBRATED["uniform"])
    network.conv1.input_quantizer.set_state({"high": float("nan")})
    with pytest.raises(ValueError, match=r"conv1.input_quantizer: .*calibrate the network"):
        lower(network, (16, 16))
