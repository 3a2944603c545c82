"""What would stay float is refused by name, or allowed by name and told."""

import copy

import pytest
import torch
import torchvision
from nets import images
from torch import nn
from torch.nn import functional as F

from qra.quant import LSQ, CalibratedUniform, DoReFa, LSQPlus, MinMax, QuantScheme, Uniform, convert, cost
from qra.quant import quantize_after_training as quantize
from qra.quant.cost import float_layers, label
from qra.quant.watch import check_run, watch


def layers(*kinds):
    """Convolutions with these modules between them, and a linear layer at the end."""
    body = [module for kind in kinds for module in (nn.Conv2d(3, 3, 1), kind)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(3 * 16 * 16, 2))


class Calls(nn.Module):
    """A convolution, a ReLU, a function, a convolution."""

    def __init__(self, function):
        super().__init__()
        self.first, self.relu, self.second = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)
        self.weight = nn.Parameter(torch.rand(4, 4))
        self.function = function

    def forward(self, x):
        return self.second(self.function(self, self.relu(self.first(x)))).mean((2, 3))


FLOAT_INPUTS = {
    "silu": (lambda: layers(nn.ReLU(), nn.SiLU(), nn.ReLU()), "4 gets its input from SiLU 3"),
    "no activation": (lambda: layers(nn.ReLU(), nn.Identity(), nn.ReLU()), "4 gets its input from Conv2d 2"),
    "batch norm": (lambda: layers(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)), nn.ReLU()), "BatchNorm2d 1.1"),
    "sum": (lambda: Calls(lambda _, x: x + x.flip(0)), "second gets its input from add in the network itself"),
    "gate": (lambda: Calls(lambda _, x: x * x.mean((2, 3), True).sigmoid()), "second gets its input from mul"),
    "constant": (lambda: Calls(lambda net, x: torch.cat([x, net.weight.expand_as(x)])), "second gets its input from"),
}


@pytest.mark.parametrize(("make", "reason"), FLOAT_INPUTS.values(), ids=FLOAT_INPUTS)
def test_a_layer_of_float_inputs_is_refused_with_what_they_come_from(make, reason):
    network = make()
    before = str(network)
    with pytest.raises(ValueError, match=f"{reason}.*allow_float.*LSQPlus"):
        convert(network, QuantScheme())
    assert str(network) == before
    assert convert(network, QuantScheme(act_bit_width=32))


PASSING = {
    "max_pool": lambda _, x: F.max_pool2d(x, 2),
    "mean": lambda _, x: x.mean((2, 3), keepdim=True),
    "shuffle": lambda _, x: x.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2),
    "cat of parts": lambda _, x: torch.cat(x.chunk(2, dim=1)[::-1], 1),
    "pad": lambda _, x: F.pad(x, (1, 1, 1, 1)),
    "dropout": lambda net, x: F.dropout(x, 0.5, net.training),
}


@pytest.mark.parametrize("function", PASSING.values(), ids=PASSING)
def test_what_only_moves_or_pools_values_keeps_their_bits(function):
    network = Calls(function)
    convert(network, QuantScheme(act_bit_width=3))
    assert [layer.input_bits for layer in cost(network, (3, 4, 4)).layers] == [8, 3]
    flow = watch(network, images())
    assert flow.inputs["second"].bits == 3


def test_what_is_allowed_by_name_is_told():
    network, scheme = layers(nn.ReLU(), nn.SiLU(), nn.ReLU()), QuantScheme(allow_float=["4"])
    convert(network, scheme)
    found = cost(network, (3, 16, 16))
    assert float_layers(scheme, found) == ["4"]
    assert label(scheme, found) == "W4A4 (DoReFa weights, PACT activations), partly float: 1 of 4 layers"


def test_a_scheme_that_quantizes_everything_keeps_its_label():
    scheme, network = QuantScheme(), layers(nn.ReLU(), nn.ReLU())
    convert(network, scheme)
    assert label(scheme, cost(network, (3, 16, 16))) == str(scheme)


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match=r"allow_float: no module of the network matches 'sixth\.\*'"):
        convert(layers(nn.ReLU()), QuantScheme(allow_float=["sixth.*"]))


@pytest.mark.parametrize("scheme", [QuantScheme(), QuantScheme(Uniform(), CalibratedUniform(), 4, 8)])
def test_a_site_that_never_runs_is_refused_or_allowed_by_name(scheme):
    network = Calls(lambda _, x: x)
    network.spare = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"Linear spare never runs.*allow_float"):
        convert(network, scheme)
    allowed = QuantScheme(scheme.weight, scheme.activation, 4, 8, allow_float=["spare"])
    assert "spare" not in {site.name for site in convert(network, allowed)}


@pytest.mark.parametrize(
    ("layer", "reason"),
    [(nn.Conv1d(16, 16, 1), "Conv1d 2.1 keeps float weights"), (nn.ConvTranspose2d(3, 3, 1), "ConvTranspose2d 2.1")],
)
def test_layer_kinds_that_keep_float_weights_are_refused_or_allowed_by_name(layer, reason):
    shape = nn.Flatten(0, 1) if isinstance(layer, nn.Conv1d) else nn.Identity()
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Sequential(shape, layer))
    with pytest.raises(ValueError, match=f"{reason}.*allow_float"):
        convert(network, QuantScheme())
    scheme = QuantScheme(allow_float=["2.1"])
    convert(network, scheme)
    assert "partly float: 1 of 2 layers" in label(scheme, cost(network, (3, 16, 16)))


def last(function):
    """A function of the channels as the last dimension and of weights."""
    return lambda net, x: function(x.movedim(1, -1), net.weight).movedim(-1, 1)


MULTIPLYING = {
    "conv2d": lambda net, x: F.conv2d(x, net.weight[:, :, None, None]),
    "matmul": lambda net, x: (net.weight @ x.flatten(2)).view_as(x),
    "inner": last(torch.inner),
    "linalg_matmul": last(torch.linalg.matmul),
    "linalg_vecdot": last(lambda x, weight: torch.linalg.vecdot(x[..., None, :], weight)),
    "linalg_multi_dot": last(lambda x, weight: torch.linalg.multi_dot([x.flatten(0, 2), weight]).view_as(x)),
    "mm": last(lambda x, weight: torch.ops.aten.mm.default(x.flatten(0, 2), weight).view_as(x)),
    "cosine_similarity": last(lambda x, weight: F.cosine_similarity(x[..., None, :], weight, dim=-1)),
    "cdist": last(torch.cdist),
}


@pytest.mark.parametrize(("name", "function"), MULTIPLYING.items(), ids=MULTIPLYING)
def test_functions_that_multiply_by_weights_are_refused_or_allowed_and_told(name, function):
    network = Calls(function)
    with pytest.raises(ValueError, match=rf": {name} in the network itself is called as a function"):
        convert(network, QuantScheme(DoReFa(), LSQPlus(), 4, 4))
    scheme = QuantScheme(DoReFa(), LSQPlus(), 4, 4, allow_float=[""])
    convert(network, scheme)
    found = cost(network, (3, 4, 4))
    assert found.uncounted == found.float_parts == (f"{name} in the network itself",)
    assert label(scheme, found) == "W4A4 (DoReFa weights, LSQPlus activations), partly float: 1 of 3 layers"


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_torchscript_which_no_quantizer_reaches_is_refused_or_allowed_and_told():
    network = layers(nn.ReLU())
    network.insert(1, torch.jit.trace(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), torch.rand(1, 3, 4, 4)))
    with pytest.raises(ValueError, match=r"1\.0 keeps float weights.*allow_float"):
        quantize(copy.deepcopy(network), QuantScheme(Uniform(), CalibratedUniform(), 4, 4), [images()])
    scheme = QuantScheme(Uniform(), CalibratedUniform(), 4, 4, allow_float=["1.*"])
    quantize(network, scheme, [images()])
    assert "partly float: 1 of 3 layers" in label(scheme, cost(network, (3, 16, 16)))


def test_products_of_values_are_not_counted_and_leave_nothing_float():
    network = Calls(lambda _, x: x * torch.inner(x.flatten(), x.flatten()))
    scheme = QuantScheme(DoReFa(), LSQPlus(), 4, 4)
    convert(network, scheme)
    found = cost(network, (3, 4, 4))
    assert found.uncounted == ("inner in the network itself",)
    assert label(scheme, found) == str(scheme)


def test_mobilenet_v3_is_told_what_pact_cannot_reach():
    network = torchvision.models.mobilenet_v3_small(num_classes=4)
    with pytest.raises(ValueError, match=r"features\.1\.block\.0\.0 gets its input from Hardswish"):
        convert(network, QuantScheme())
    scheme = QuantScheme(allow_float=["features.*", "classifier.*"])
    convert(network, scheme)
    assert "partly float: " in label(scheme, cost(network, (3, 32, 32)))


# ----- where tracing fails -----


class Untraceable(nn.Module):
    def __init__(self, middle):
        super().__init__()
        self.first, self.middle, self.second, self.relu = nn.Conv2d(3, 4, 1), middle, nn.Conv2d(4, 2, 1), nn.ReLU()

    def forward(self, x):
        x = self.middle(self.first(x))
        if x.max() > 1e9:
            x = x * 0
        return self.relu(self.second(x)).mean((2, 3))


class Twice(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(self.inner(x))


@pytest.mark.filterwarnings("ignore:.*cannot be traced")
def test_a_run_decides_where_tracing_fails():
    scheme = QuantScheme()
    for middle, reason in ((nn.SiLU(), "silu|SiLU middle"), (nn.Sequential(nn.ReLU(), nn.Tanh()), r"Tanh middle\.1")):
        network = Untraceable(middle)
        convert(network, scheme)
        with pytest.raises(ValueError, match=f"second gets its input from ({reason})"):
            check_run(network, scheme, images())
    network = Untraceable(nn.ReLU())
    convert(network, scheme)
    check_run(network, scheme, images())
    assert [layer.input_bits for layer in cost(network, (3, 8, 8)).layers] == [8, 4]


@pytest.mark.filterwarnings("ignore:.*cannot be traced")
@pytest.mark.parametrize(
    "scheme", [QuantScheme(LSQ(), LSQPlus()), QuantScheme(Uniform(), CalibratedUniform())], ids=str
)
def test_a_run_decides_about_quantizers_at_inputs(scheme):
    network = Untraceable(nn.SiLU())
    convert(network, scheme)
    check_run(network, scheme, images())
    assert {layer.input_bits for layer in cost(network, (3, 8, 8)).layers} <= {4, 8}
    network.spare = copy.deepcopy(network.second)
    with pytest.raises(ValueError, match="Conv2d spare never runs"):
        check_run(network, scheme, images())


@pytest.mark.filterwarnings("ignore:.*cannot be traced")
def test_a_run_finds_what_never_runs_or_runs_twice():
    network, scheme = Untraceable(nn.ReLU()), QuantScheme()
    network.spare = nn.Linear(2, 2)
    convert(network, scheme)
    with pytest.raises(ValueError, match="Linear spare never runs"):
        check_run(network, scheme, images())
    network = Untraceable(nn.Sequential(nn.ReLU(), Twice(nn.Conv2d(4, 4, 1)), nn.ReLU()))
    weights = QuantScheme(act_bit_width=32)
    convert(network, weights)
    with pytest.raises(ValueError, match=r"more than one place: middle\.1\.inner"):
        check_run(network, weights, images())


@pytest.mark.filterwarnings("ignore:.*cannot be traced")
def test_quantization_after_training_looks_at_a_run_too():
    network = Untraceable(nn.ReLU())
    network.spare = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="Linear spare never runs"):
        quantize(network, QuantScheme(Uniform(), CalibratedUniform(MinMax()), 4, 4), [images()])


def test_watching_agrees_with_tracing():
    from qra.quant.follow import follow
    from qra.quant.trace import find_graph

    for make in (torchvision.models.resnet18, torchvision.models.mobilenet_v3_small):
        network = make(num_classes=3).eval()
        traced, seen = follow(network, find_graph(network)), watch(network, images(size=32))
        assert traced.inputs.keys() == seen.inputs.keys()
        assert [s.kind for s in traced.inputs.values()] == [s.kind for s in seen.inputs.values()]
        assert traced.calls == {name: count for name, count in seen.calls.items() if name in traced.calls}
