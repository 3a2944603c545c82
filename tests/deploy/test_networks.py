"""Networks as people write them, of layers, functions and quantizers that the networks of this project do not have."""

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from small import CALIBRATED, LSQ_PLUS, TRAINED, calibrated, images, in_float64, run, trained
from torch import Tensor, nn
from torch.nn import functional as F

from qra.deploy.bounds import ranges
from qra.deploy.engine import Engine
from qra.deploy.export import check_agrees
from qra.deploy.lower import lower
from qra.deploy.onnx import to_onnx
from qra.deploy.ops import Convolution
from qra.deploy.twin import IntegerNetwork
from qra.models import Normalized
from qra.quant import PACT, DoReFa, Grid, QuantScheme, Term, WeightGrid, WeightQuantizer, calibrate, convert

W4A4, W8A8 = TRAINED["W4A4-DoReFa"], TRAINED["W8A8-LSQ"]
pytestmark = pytest.mark.filterwarnings("ignore:ReLUs that are called as functions")


class Written(nn.Module):
    """A network whose forward pass is a function of itself.

    Args:
        forward: The forward pass.
        modules: Modules by name.
    """

    def __init__(self, forward, **modules):
        super().__init__()
        self.passed = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.passed(self, x)


def stem(channels=4):
    return nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1), nn.BatchNorm2d(channels), nn.ReLU())


def lenet(n, x):
    x = F.max_pool2d(F.relu(n.a(x)), 2)
    return n.fc(F.max_pool2d(F.relu(n.b(x)), 2).view(-1, 8 * 2 * 2))


def widened(n, x):
    x = n.stem(x)
    return n.fc(n.relu(n.b(x) + F.pad(n.pool(x), (0, 0, 0, 0, 2, 2))).mean((2, 3)))


def half(n, x):
    return n.fc(n.relu(n.a(x)[:, :, ::2, ::2]).flatten(1))


NETWORKS = {
    "pooling and views as functions": lambda: Written(
        lenet, a=nn.Conv2d(3, 4, 5), b=nn.Conv2d(4, 8, 3), fc=nn.Linear(32, 5)
    ),
    "pooling before the ReLU": lambda: nn.Sequential(
        *(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.MaxPool2d(3, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(196, 5)),
    ),
    "a convolution as classifier": lambda: nn.Sequential(
        *(stem(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 5, 1), nn.Flatten())
    ),
    "averages between layers": lambda: nn.Sequential(
        *(stem(), nn.AvgPool2d(2, 1), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.AvgPool2d(3, 2), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(4, 5)),
    ),
    "an averaged shortcut with more channels": lambda: Written(
        widened, stem=stem(), b=nn.Conv2d(4, 8, 3, 2, 1), relu=nn.ReLU(), pool=nn.AvgPool2d(2), fc=nn.Linear(8, 5)
    ),
    "every other pixel of sums": lambda: Written(half, a=nn.Conv2d(3, 4, 3), relu=nn.ReLU(), fc=nn.Linear(196, 5)),
    "normalization after a linear layer": lambda: nn.Sequential(
        *(stem(), nn.Flatten(), nn.Linear(256, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5))
    ),
    "channels that are all the same": lambda: nn.Sequential(
        *(stem(), nn.Conv2d(4, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    ),
    "limits as functions": lambda: Written(
        lambda n, x: n.fc(n.relu(n.a(x).clamp(-0.5, 0.5))).clamp(min=-1).flatten(1),
        **{"a": nn.Conv2d(3, 4, 3, 4), "relu": nn.ReLU(), "fc": nn.Conv2d(4, 2, 4)},
    ),
}


def written(name):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    if name == "channels that are all the same":
        nn.init.constant_(network[1].weight, 0.1)
    return Normalized(network).eval()


def check(network, x):
    """Twin and engine agree to the last bit, and are the network."""
    program = lower(network, tuple(x.shape[2:]))
    logits = IntegerNetwork(program).eval()(x)
    assert torch.equal(run(to_onnx(program), x)[0], logits)
    faithful = Engine(to_onnx(program, "qdq").SerializeToString())
    expected = in_float64(network)(x.double()).float()
    for found in (logits, faithful(x)):
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_usual_ways_to_write_a_network_are_lowered(name):
    check(trained(W4A4, written(name)), images(3))


@torch.no_grad()
def test_a_network_of_linear_layers_on_grey_images_of_any_form_is_lowered():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(96, 6), nn.ReLU(), nn.Linear(6, 3))
    network = Normalized(network, [0.1], [0.3]).eval()
    x = images(9)[:, :1, :12, :8]
    convert(network, W8A8)
    calibrate(network, [x])
    check(network.eval(), x)


def one_scale(network):
    """The network on images whose channels have one mean, which is a byte, and one standard deviation."""
    return Normalized(network, [128 / 255] * 3, [0.25] * 3).eval()


@torch.no_grad()
def test_averages_of_float_values_are_lowered():
    check(trained(LSQ_PLUS, written("an averaged shortcut with more channels")), images(3))


@torch.no_grad()
def test_modules_may_have_any_name():
    torch.manual_seed(0)
    names = {"image": nn.Conv2d(3, 4, 3, 2), "relu-1": nn.ReLU(), "a+b": nn.Flatten(), "logits": nn.Linear(196, 5)}
    network = Normalized(nn.Sequential(OrderedDict(names)))
    check(trained(W4A4, network.eval()), images(3))
    check(trained(W4A4, one_scale(nn.Sequential(OrderedDict(names)))), images(3))


@torch.no_grad()
def test_averages_as_functions_are_lowered_after_training():
    check(calibrated(CALIBRATED["uniform"], network=written("an averaged shortcut with more channels")), images(3))


@torch.no_grad()
def test_sums_of_negative_codes_may_leave_eight_bits():
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    network = Normalized(nn.Sequential(*layers)).eval()
    network.network[0].bias.fill_(-9.0)
    network = calibrated(CALIBRATED["uniform"], network=network)
    x = images(3)[..., :12, :14]
    assert ranges(lower(network, (12, 14)))["network.1.pool"] == (-240, 210)
    check(network, x)


def bottlenecks(n, x):
    x = n.first(n.stem(x))
    for block in (n.a, n.b):
        x = x + block(x)
    return n.fc(n.pool(x).flatten(1))


@torch.no_grad()
def test_sums_that_are_taken_twice_are_summed_once_and_so_are_right_on_openvino():
    torch.manual_seed(0)
    blocks = (nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU6(), nn.Conv2d(6, 4, 1, bias=False)) for _ in range(2))
    parts = {"pool": nn.AdaptiveAvgPool2d(1), "fc": nn.Linear(4, 5), **dict(zip("ab", blocks, strict=True))}
    network = Written(bottlenecks, stem=stem(), first=nn.Conv2d(4, 4, 3), **parts)
    network = calibrated(CALIBRATED["uniform-layer"], network=Normalized(network).eval())
    check(network, images(3))
    program = lower(network, (16, 16))
    layers = {op.name for op in program.ops if isinstance(op, Convolution)}
    taken = Counter(name for op in program.ops for name in op.sources if name in layers)
    assert set(taken.values()) == {1}
    codes = IntegerNetwork(program).codes(images(3))
    found = Engine(to_onnx(program, "qdq", taps=True).SerializeToString(), "openvino").outputs(images(3))
    for name in ("network.a.0.input_quantizer", "network.b.0.input_quantizer", "network.pool.input_quantizer"):
        assert float((found[f"codes:{name}"].float() != codes[name]).float().mean()) < 0.01


@torch.no_grad()
def test_groups_of_channels_of_the_image_are_lowered():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3, 2, groups=3), nn.ReLU(), nn.Flatten(), nn.Linear(294, 5))
    check(trained(W4A4, one_scale(network)), images(3))


@torch.no_grad()
def test_normalization_behind_a_quantized_value_gives_each_channel_a_scale_of_its_own():
    torch.manual_seed(0)
    network = nn.Sequential(*(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.ReLU()),
                            *(nn.Flatten(), nn.Linear(100, 5)))  # fmt: skip
    network[2].weight.copy_(torch.tensor([1.0, -0.5, 2.0, 0.1]))
    network[2].bias.copy_(torch.tensor([0.3, -0.2, 0.0, 1.0]))
    scheme = QuantScheme(DoReFa(), PACT(percentile=99.9), allow_float=["*"])
    check(trained(scheme, Normalized(network).eval()), images(3))


@torch.no_grad()
def test_bytes_that_lie_between_two_codes_are_rounded_alike_in_both_forms():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(196, 5))
    network = calibrated(CALIBRATED["pwlq"], network=one_scale(network))
    network.network[0].input_quantizer.set_state({"high": 127.5 * 2 / 255 / 0.25 / 16})
    program = lower(network, (16, 16))
    codes = IntegerNetwork(program).codes(images(4))["network.0.input_quantizer"]
    found = Engine(to_onnx(program, "qdq", taps=True).SerializeToString()).outputs(images(4))
    assert torch.equal(found["codes:network.0.input_quantizer"].float(), codes)


@pytest.mark.parametrize("name", ["averages between layers", "an average before a linear layer"])
@torch.no_grad()
def test_openvino_rounds_neither_averages_nor_what_a_linear_layer_takes(name):
    torch.manual_seed(0)
    last = nn.Sequential(stem(), nn.AvgPool2d((2, 3), (1, 2)), nn.Flatten(), nn.Linear(84, 5))
    network = trained(W8A8, Normalized(last).eval()) if "linear" in name else trained(W4A4, written(name))
    program = lower(network, (16, 16))
    logits = IntegerNetwork(program)(images(4))
    found = Engine(to_onnx(program, "qdq").SerializeToString(), "openvino")(images(4))
    assert torch.allclose(found, logits, rtol=0, atol=1e-4 * float(logits.abs().max()))


# ----- quantizers of one's own -----


@dataclass(frozen=True)
class Own(WeightQuantizer):
    """Weights on a grid of one's own."""

    learned: ClassVar[bool] = False
    way: str = "powers"

    def grid(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> WeightGrid:
        step = w.abs().max() / 7
        if self.way == "powers":
            values = torch.exp2(-torch.arange(5.0))
            table = torch.cat([torch.zeros(1), values, -values])
            nearest = (w[..., None] / (7 * step) - table).abs().argmin(-1)
            return WeightGrid((Term(nearest.float(), Grid(7 * step, range(11), table=table)),))
        if self.way == "zero points":
            low = w.flatten(1).amin(1).clamp(max=0).view(-1, *[1] * (w.ndim - 1))
            zero = (-low / step).round()
            return WeightGrid((Term(((w / step).round() + zero).clamp(0, 15), Grid(step, range(16), zero)),))
        if self.way == "uneven":
            return WeightGrid((Term((w > 0) + 1.0, Grid(step, range(3), table=torch.tensor([0.0, 2.0, 3.0]))),))
        scale = w.abs().amax(tuple(axis for axis in range(w.ndim) if axis != 1), keepdim=True) / 7
        return WeightGrid((Term((w / scale).round(), Grid(scale, range(-7, 8))),))


def of_own(way):
    return trained(QuantScheme(Own(way), PACT(percentile=99.9)), written("pooling before the ReLU"))


@pytest.mark.parametrize("way", ["powers", "zero points"])
@torch.no_grad()
def test_grids_of_whole_multiples_are_lowered(way):
    check(of_own(way), images(3))


@pytest.mark.parametrize(
    ("way", "reason"), [("uneven", "not integer multiples of one step"), ("inputs", r"scales of shape \(1, 3, 1, 1\)")]
)
def test_grids_that_are_none_of_integers_are_refused(way, reason):
    with pytest.raises(ValueError, match=f"network.0: .*{reason}"):
        lower(of_own(way), (16, 16))


# ----- refused -----


@pytest.mark.parametrize(
    ("name", "resolution", "reason"),
    [
        ("pooling and views as functions", (20, 20), r"view \(-1, 32\): only all 72 values .*--resolution"),
        ("pooling and views as functions", (6, 16), "network.b is larger than its input of 1 x 6: .*--resolution"),
        ("pooling before the ReLU", (24, 24), "network.5 takes 196 values, not 484: .*--resolution"),
        ("averages between layers", (8, 8), "network.4 has an empty output: .*--resolution"),
        ("averages between layers", (0, 4), "give rows and columns"),
    ],
)
def test_images_of_another_size_are_refused_with_the_option_that_says_it(name, resolution, reason):
    with pytest.raises(ValueError, match=reason):
        lower(trained(W4A4, written(name)), resolution)


def test_a_bias_beyond_float32_is_refused_by_name():
    network = trained(W4A4, Normalized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 5))))
    with torch.no_grad():
        network.network[0].bias[0] = 3e38
        network.network[1].alpha.fill_(1e-3)
    with pytest.raises(ValueError, match=r"network.1: .* beyond float32"):
        lower(network, (16, 16))


def test_a_program_that_is_not_the_network_is_not_exported():
    network = trained(W4A4, written("pooling before the ReLU"))
    program = lower(network, (16, 16))
    check_agrees(network, program)
    network.network[3].register_forward_hook(lambda module, inputs, output: output.clamp(max=0.1))
    with pytest.raises(ValueError, match="a different function than the network"):
        check_agrees(network, program)
