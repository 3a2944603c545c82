"""ReLUs that are called as functions, or more than once, become modules."""

import copy
import logging

import pytest
import torch
import torchvision
from nets import Inner, images
from torch import fx, nn
from torch.nn import functional as F

from qra.quant import (
    LSQ,
    PACT,
    DoReFa,
    LSQActivation,
    MinMax,
    QuantScheme,
    calibrate,
    convert,
    float_mode,
    freeze,
    pact,
    revert,
)
from qra.quant.relus import join_relus, split_relus

AT_RELUS = QuantScheme(act_bit_width=4, weight_bit_width=32)


class Functional(nn.Module):
    """A convolution, a call, a linear layer."""

    def __init__(self, call):
        super().__init__()
        self.conv, self.inner, self.head = nn.Conv2d(3, 4, 3), Inner(call), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.inner(self.conv(x)).mean((2, 3)))


def statement(x):
    x.relu_()
    return x


RELUS = {
    "F.relu": F.relu,
    "in place": lambda x: F.relu(x, inplace=True),
    "torch.relu": torch.relu,
    "method": lambda x: x.relu(),
    "method in place": lambda x: x.relu_(),
    "statement": statement,
    "clamp": lambda x: x.clamp(min=0),
    "torch.clamp": lambda x: torch.clamp(x, 0),
    "clamp_min": lambda x: x.clamp_min(0),
}
LIMITED = {
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, 0, 6),
    "clamp": lambda x: x.clamp(0, 6),
    "clamp by name": lambda x: torch.clamp(x, min=0.0, max=6.0),
}


@pytest.mark.parametrize("call", RELUS.values(), ids=RELUS)
def test_a_functional_relu_becomes_a_module(call):
    network = Functional(call)
    before = network(images())
    assert [site.name for site in convert(network, AT_RELUS)] == ["inner.relu_1"]
    with float_mode(network):
        assert torch.equal(network(images()), before)
    assert not torch.equal(network(images()), before)


@pytest.mark.parametrize("call", LIMITED.values(), ids=LIMITED)
@pytest.mark.parametrize("activation", [PACT(), LSQActivation()])
def test_the_limit_of_a_functional_relu6_stays(call, activation):
    network = Functional(call)
    before = network(20 * images())
    convert(network, QuantScheme(LSQ(), activation, 32, 8))
    with float_mode(network):
        assert torch.equal(network(20 * images()), before)
    y = network.inner.relu_1(torch.tensor([[-1.0, 5.0, 7.0, 100.0]]))
    torch.testing.assert_close(y, torch.tensor([[0.0, 5.0, 6.0, 6.0]]), atol=0.02, rtol=0)


@pytest.mark.parametrize("call", [lambda x: x.clamp(-1, 1), lambda x: x.clamp(min=0.5), F.hardtanh, F.silu])
def test_other_functions_stay(call):
    assert split_relus(Functional(call)) == []


def test_the_clip_of_relu6_stays_where_the_clip_level_grows_beyond_it():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6())
    convert(network, QuantScheme(DoReFa(), PACT(alpha=10.0), 32, 4))
    assert network[1].alpha == 6
    with torch.no_grad():
        network[1].alpha.fill_(12)
    x = torch.linspace(-20, 20, 50)
    assert torch.equal(network[1](x), pact(x.clamp(max=6), 12.0, 4))
    assert str(revert(network) or network[1]) == "ReLU6()"


def test_the_clip_level_of_relu6_starts_below_six_where_the_scheme_says_so():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6())
    convert(network, QuantScheme(DoReFa(), PACT(alpha=3.0), 32, 4))
    assert network[1].alpha == 3


def test_a_torchvision_resnet_keeps_its_keys_and_its_logits(caplog):
    network = torchvision.models.resnet18(num_classes=10).eval()
    before, described, keys = network(images(size=64)), str(network), list(network.state_dict())
    with caplog.at_level(logging.WARNING, "qra"):
        sites = convert(network, AT_RELUS)
    assert caplog.messages == [
        "ReLUs that are called as functions, or more than once, were replaced by separate modules in layer1.0, "
        "layer1.1, layer2.0 and 5 more"
    ]
    assert [site.name for site in sites if site.name.startswith("layer1.0")] == ["layer1.0.relu", "layer1.0.relu_1"]
    assert len(sites) == 17
    assert [key for key in network.state_dict() if not key.endswith("alpha")] == keys
    with float_mode(network):
        assert torch.equal(network(images(size=64)), before)
    revert(network)
    assert str(network) == described
    assert torch.equal(network(images(size=64)), before)


def test_copies_and_frozen_copies_call_the_modules_too():
    resnet = torchvision.models.resnet
    network = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=10).double()
    convert(network, AT_RELUS)
    calibrate(network, [])
    network.eval()
    x = images(size=32, dtype=torch.float64)
    assert torch.equal(copy.deepcopy(network)(x), network(x))
    torch.testing.assert_close(freeze(network)(x), network(x))


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return F.dropout(F.relu(self.conv(x)), p=0.5, training=self.training)


def test_dropout_follows_the_mode_as_before():
    network = Dropping()
    split_relus(network)
    x = images()
    torch.manual_seed(0)
    dropped = network(x)
    torch.manual_seed(0)
    assert torch.equal(dropped, Dropping.forward(network, x))
    network.eval()
    assert torch.equal(network(x), F.relu(network.conv(x)))


def test_a_forward_pass_that_depends_on_the_mode_otherwise_is_refused():
    class Moody(Dropping):
        def forward(self, x):
            return F.relu(self.conv(x)) if self.training else self.conv(F.relu(x)) + 1

    assert split_relus(Moody()) == []
    with pytest.raises(ValueError, match="relu in 0"):
        convert(nn.Sequential(Moody(), nn.ReLU()), AT_RELUS)


def test_optional_arguments_keep_their_defaults():
    class Masked(Dropping):
        def forward(self, x, mask=None):
            return F.relu(self.conv(x if mask is None else x * mask))

    network = Masked()
    before = network(images())
    assert split_relus(network) == [""]
    assert torch.equal(network(images()), before)


class Optional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x, relu=True):
        return F.relu(self.conv(x)) if relu else self.conv(x)


class Choosing(nn.Module):
    def __init__(self, **arguments):
        super().__init__()
        self.first, self.second, self.arguments = Optional(), Optional(), arguments

    def forward(self, x, features=False):
        x = self.second(self.first(x), **self.arguments)
        return (x, x) if features else x


@pytest.mark.parametrize("arguments", [{}, {"relu": True}, {"relu": False}], ids=str)
def test_a_call_with_other_arguments_than_the_defaults_computes_what_it_did(arguments):
    network = Choosing(**arguments)
    x = images()
    before = network(x)
    sites = [site.name for site in convert(network, AT_RELUS)]
    assert sites == ["first.relu_1", "second.relu_1"][: 1 if arguments == {"relu": False} else 2]
    with float_mode(network):
        assert torch.equal(network(x), before)
        assert len(network(x, features=True)) == 2


class Overwriting(nn.Module):
    """A ReLU that works in place, and what reads its input afterwards."""

    def __init__(self, calls):
        super().__init__()
        self.conv, self.relu, self.calls = nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True), calls

    def forward(self, x):
        x = self.conv(x)
        for _ in range(self.calls - 1):
            x = self.conv(self.relu(x))
        return self.relu(x) - 2 * x


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.inner = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 3, 1))

    def forward(self, x):
        x = self.first(x)
        return x + self.inner(x)


@pytest.mark.parametrize(("make", "name"), [(lambda: Overwriting(1), "relu"), (Residual, r"inner\.0")])
def test_a_relu_in_place_whose_input_is_read_again_is_refused(make, name):
    with pytest.raises(ValueError, match=f"^{name} changes its input in place.* (mul|add) reads that input afterwards"):
        convert(make(), AT_RELUS)


def test_the_second_call_of_a_relu_in_place_changes_what_is_read_later():
    network = Overwriting(2)
    x = images()
    before = network(x)
    convert(network, AT_RELUS)
    with float_mode(network):
        assert torch.equal(network(x), before)


def test_of_a_network_that_was_traced_only_relus_that_are_modules_are_replaced():
    network = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()))
    assert [site.name for site in convert(network, AT_RELUS)] == ["1"]
    with pytest.raises(ValueError, match="ReLUs are called as functions that cannot be replaced by modules: relu in "):
        convert(fx.symbolic_trace(Functional(F.relu)), AT_RELUS)


def test_hooks_on_a_relu_are_refused():
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    network[1].register_forward_hook(lambda module, args, result: 2 * result)
    with pytest.raises(ValueError, match="hooks change what 1 computes"):
        convert(network, AT_RELUS)


def test_a_limit_that_is_a_whole_number_is_a_clip_level():
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Hardtanh(0, 1))
    convert(network, AT_RELUS)
    assert network[1].alpha.item() == 1.0


def test_a_relu_that_two_modules_hold_is_split():
    relu = nn.ReLU()
    network = nn.Sequential(nn.Conv2d(3, 3, 1), relu, nn.Conv2d(3, 3, 1), relu)
    assert [site.name for site in convert(network, AT_RELUS)] == ["1", "3"]


def test_splitting_and_joining_leave_the_classes_as_they_were():
    network = torchvision.models.densenet121(num_classes=2)
    kinds, described = [type(module) for module in network.modules()], str(network)
    assert split_relus(network) == [""]
    assert isinstance(network, torchvision.models.DenseNet)
    join_relus(network)
    assert [type(module) for module in network.modules()] == kinds
    assert str(network) == described


def test_a_functional_relu_does_not_matter_to_quantizers_at_inputs(caplog):
    from qra.quant import CalibratedUniform

    convert(Functional(F.relu), QuantScheme(DoReFa(), CalibratedUniform(MinMax()), 4, 4))
    assert caplog.messages == []
