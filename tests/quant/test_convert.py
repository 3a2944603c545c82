"""Conversion, and back."""

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torchvision
from nets import SCHEMES, Inner, images, quantized, small_resnet
from torch import nn
from torch.nn import functional as F

from qra import models
from qra.models import with_features
from qra.quant import (
    LSQ,
    PACT,
    PWLQ,
    CalibratedUniform,
    DoReFa,
    LSQPlus,
    MinMax,
    QuantScheme,
    Site,
    Uniform,
    WeightQuantizer,
    convert,
    cost,
    freeze,
    revert,
)
from qra.quant.network import quantizer_keys
from qra.quant.statistics import activation_statistics
from qra.quant.trace import find_graph

every_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)


@every_scheme
def test_float_keys_stay_and_only_quantizer_keys_are_added(scheme):
    network = small_resnet()
    before = network.state_dict()
    convert(network, scheme)
    after = network.state_dict()
    assert set(after) - set(before) == set(quantizer_keys(network))
    assert all(torch.equal(after[key], value) for key, value in before.items())
    missing, unexpected = network.load_state_dict(before, strict=False)
    assert set(missing) == set(quantizer_keys(network))
    assert unexpected == []


@every_scheme
def test_convert_then_revert_is_the_identity(scheme):
    network = small_resnet()
    parameters = dict(network.named_parameters())
    network.relu1.inplace = True
    before, described = network(images()), str(network)
    revert(quantized(scheme, network))
    assert str(network) == described
    assert torch.equal(network(images()), before)
    assert dict(network.named_parameters()).keys() == parameters.keys()
    assert all(value is parameters[name] for name, value in network.named_parameters())


def test_a_conversion_changes_the_logits_and_leaves_the_random_generator_alone():
    network = small_resnet()
    before, state = network(images()), torch.get_rng_state()
    convert(network, SCHEMES["pact"])
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.allclose(network(images()), before)


def test_sites_of_a_trained_quantizer_are_exact():
    weights = {"conv1": 8, "stages.0.0.conv1": 4, "stages.0.0.conv2": 4, "stages.1.0.conv1": 4, "stages.1.0.conv2": 4}
    relus = ["relu1", *(f"stages.{stage}.0.relu{i}" for stage in (0, 1) for i in (1, 2))]
    expected = [Site(name, "weight", bits) for name, bits in {**weights, "fc": 8}.items()]
    expected += [Site(name, "activation", 3) for name in relus]
    assert convert(small_resnet(), QuantScheme(weight_bit_width=4, act_bit_width=3)) == expected


def test_calibrated_quantizers_sit_at_the_inputs_of_layers_and_pooling():
    sites = convert(small_resnet(), QuantScheme(PWLQ(), CalibratedUniform(), 2, 7, None))
    layers = ["conv1", *(f"stages.{stage}.0.conv{i}" for stage in (0, 1) for i in (1, 2))]
    assert [(site.name, site.bit_width) for site in sites if site.kind == "weight"] == [(n, 2) for n in (*layers, "fc")]
    assert [(site.name, site.bit_width) for site in sites if site.kind == "input"] == [
        (name, 7) for name in (*layers, "pool", "fc")
    ]


@pytest.mark.parametrize(
    ("rule", "bits"), [(8, [8, 3, 8]), (None, [3, 3, 3]), (32, [None, 3, None])], ids=["default", "none", "float"]
)
def test_the_first_convolution_and_the_last_linear_layer_have_a_rule_of_their_own(rule, bits):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    sites = convert(network, QuantScheme(weight_bit_width=3, act_bit_width=32, first_last_bit_width=rule))
    found = {site.name: site.bit_width for site in sites}
    assert [found.get(name) for name in ("0", "2", "5")] == bits


def test_first_and_last_are_those_of_the_forward_pass_not_of_the_constructor():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)
            self.hidden = nn.Linear(4, 4)
            self.relu = nn.ReLU()
            self.second = nn.Conv2d(4, 4, 1)
            self.first = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.fc(self.hidden(self.relu(self.second(self.first(x))).mean((2, 3))))

    sites = convert(Backwards(), QuantScheme(weight_bit_width=2, act_bit_width=32))
    assert {site.name for site in sites if site.bit_width == 8} == {"first", "fc"}


def test_dorefa_keeps_the_scale_of_the_last_linear_layer_alone():
    network = small_resnet()
    convert(network, QuantScheme(DoReFa(), act_bit_width=32, first_last_bit_width=None))
    largest = network.fc.weight.tanh().abs().max()
    assert network.fc.weight_quantizer(network.fc.weight).abs().max().item() == pytest.approx(largest.item())
    conv = network.stages[0][0].conv1
    assert conv.weight_quantizer(conv.weight).abs().max() == 1


@pytest.mark.parametrize("patterns", ["stages.*", [1]])
def test_patterns_that_are_no_list_of_texts_are_refused(patterns):
    with pytest.raises(ValueError, match=r"^allow_float is .*: give a list of patterns, such as"):
        QuantScheme(allow_float=patterns)


def test_the_weights_of_a_layer_have_at_most_the_levels_of_their_bit_width():
    for scheme in (QuantScheme(weight_bit_width=b, act_bit_width=32) for b in (2, 3, 5)):
        network = quantized(scheme)
        conv = network.stages[1][0].conv1
        assert len(conv.weight_quantizer(conv.weight).unique()) <= 2**scheme.weight_bit_width


def test_bit_width_32_on_both_sides_changes_nothing():
    network = small_resnet()
    assert convert(network, QuantScheme(weight_bit_width=32, act_bit_width=32)) == []
    assert str(network) == str(small_resnet())


def test_state_exists_before_any_forward_pass_and_on_the_device_of_the_weights():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).to("meta")
    convert(network, QuantScheme())
    assert network[1].alpha.device.type == "meta"


# ----- refusals -----


@pytest.mark.parametrize("name", ["weight_bit_width", "act_bit_width", "first_last_bit_width"])
@pytest.mark.parametrize("bits", [0, 1, 9, 33, 4.0])
def test_impossible_bit_widths_are_refused(name, bits):
    with pytest.raises(ValueError, match=f"{name}: bit width {bits}"):
        QuantScheme(**{name: bits})


def test_a_weight_quantizer_is_refused_for_activations_and_the_other_way_round():
    with pytest.raises(ValueError, match="PWLQ does not quantize activations"):
        QuantScheme(activation=PWLQ())
    with pytest.raises(ValueError, match="PACT does not quantize weights"):
        QuantScheme(weight=PACT())


def test_a_wrapper_for_parallel_training_is_refused():
    with pytest.raises(ValueError, match="wrapped in DataParallel: quantize its module"):
        convert(nn.DataParallel(small_resnet()), QuantScheme())


class Undecorated(WeightQuantizer):
    """Without settings, so that nothing but its checkpoints would miss the decorator."""


class OwnConstructor(DoReFa):
    def __init__(self, share):
        super().__init__()
        object.__setattr__(self, "share", share)  # what is no field is not in a checkpoint


@pytest.mark.parametrize("quantizer", [Undecorated(), OwnConstructor(0.5)])
def test_a_quantizer_that_checkpoints_could_not_describe_is_refused_before_any_training(quantizer):
    with pytest.raises(ValueError, match=rf"^{type(quantizer).__name__} is not a dataclass, .* @dataclass"):
        QuantScheme(quantizer)


@dataclass(frozen=True)
class Holding(DoReFa):
    held: Any = None


@dataclass(frozen=True)
class HoldingActivation(PACT):
    held: Any = None


@pytest.mark.parametrize("held", [torch.ones(1), torch.sign, [nn.ReLU], {1: 2}, Holding(held=torch.ones(1))])
def test_a_field_that_a_checkpoint_cannot_describe_is_named(held):
    with pytest.raises(ValueError, match=r"held of Holding is a .*, which checkpoints cannot describe"):
        QuantScheme(Holding(held=held)).check_stored()
    with pytest.raises(ValueError, match=r"held of HoldingActivation is a "):
        QuantScheme(activation=HoldingActivation(held=held)).check_stored()


def test_plain_fields_can_be_stored():
    QuantScheme(Holding(held={"a": [(1, 2.0), None, Holding(held="b")]})).check_stored()


@dataclass(frozen=True)
class NamedLikeTheModule(PACT):
    def start(self, bit_width):
        return {"enabled": 1.0}


def test_a_value_of_a_state_cannot_be_named_like_what_holds_it():
    with pytest.raises(ValueError, match="NamedLikeTheModule cannot name a value of its state enabled: use another"):
        convert(small_resnet(), QuantScheme(activation=NamedLikeTheModule()))


@dataclass(frozen=True)
class NamedClip(PACT):
    def start_below(self, bit_width, clip):
        return {"clip": clip}

    def quantize(self, x, bit_width, state, gradient):
        return x.clamp(max=state["clip"] / 2)


def test_a_value_of_a_state_may_be_named_clip_even_where_a_relu_clips():
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU6(), nn.Flatten(), nn.Linear(2, 2))
    convert(network, QuantScheme(activation=NamedClip()))
    assert network[1](torch.full((1, 2, 1, 1), 9.0)).unique().tolist() == [3]


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_a_clip_level_that_is_not_positive_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha is"):
        PACT(alpha=alpha)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: PACT(decay=-1), "decay is -1"),
        (lambda: PACT(percentile=20), "percentile is 20"),
        (lambda: DoReFa(gradient="none"), "choose one of through_tanh, identity"),
        (lambda: DoReFa(scale_preserving="some"), "choose one of none, last, all"),
        (lambda: PWLQ(breakpoint="guess"), "choose one of closed_form, bisection, search"),
        (lambda: PWLQ(overlapping=True), "no closed form"),
        (lambda: MinMax(clip=2), "clip is 2"),
    ],
)
def test_wrong_settings_are_refused_at_construction(make, reason):
    with pytest.raises(ValueError, match=reason):
        make()


def refused(network, scheme, reason):
    before = str(network)
    with pytest.raises(ValueError, match=reason):
        convert(network, scheme)
    assert str(network) == before


class Functional(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.inner = Inner(call)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.inner(self.block(x)).mean((2, 3)))


def test_a_functional_relu_does_not_matter_to_weights():
    assert convert(Functional(F.relu), QuantScheme(act_bit_width=32))


def test_a_functional_convolution_is_refused_and_named():
    def call(x):
        return F.conv2d(x, x.new_ones(4, 4, 1, 1)) if isinstance(x, torch.Tensor) else F.conv2d(x, x)

    refused(Functional(call), QuantScheme(), "conv2d in inner")


def test_a_block_that_is_called_twice_is_refused_and_named():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())

        def forward(self, x):
            return self.block(self.block(x))

    refused(Twice(), QuantScheme(), "more than one place: block.0, block.1")


def test_a_torchvision_network_takes_weights_and_calibrated_inputs():
    network = models.Normalized(torchvision.models.resnet18(num_classes=10))
    sites = convert(network, QuantScheme(Uniform(), CalibratedUniform(), 4, 8))
    assert len([site for site in sites if site.kind == "input"]) == 22


def test_a_layer_under_two_names_is_refused():
    conv = nn.Conv2d(3, 3, 1)
    refused(nn.Sequential(conv, nn.ReLU(), conv, nn.ReLU()), QuantScheme(), "0 share their weights")


def test_layers_of_one_memory_are_refused():
    first, second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    second.weight = nn.Parameter(first.weight.data)
    refused(nn.Sequential(first, nn.ReLU(), second, nn.ReLU()), QuantScheme(), "0, 2 share their weights")


def test_a_layer_of_another_class_is_refused():
    class OwnConv(nn.Conv2d):
        pass

    refused(nn.Sequential(OwnConv(3, 4, 1), nn.ReLU()), QuantScheme(), r"not 0 \(OwnConv\)")


def test_a_scheme_that_finds_nothing_is_refused():
    refused(nn.Sequential(nn.Flatten()), QuantScheme(), "no nn.Conv2d and no nn.Linear")
    refused(nn.Sequential(nn.Linear(2, 2)), QuantScheme(), "the network has no nn.ReLU")


def test_a_quantized_network_is_refused():
    refused(quantized(SCHEMES["pact"]), QuantScheme(), "already quantized")


def test_a_network_that_cannot_be_traced_is_converted_with_a_warning():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.relu(self.conv(x)) if x.sum() > 0 else self.conv(x)

    with pytest.warns(UserWarning, match="cannot be traced"):
        assert len(convert(Branches(), QuantScheme())) == 2


def test_a_quantizer_of_ones_own_is_one_class():
    class Sign(Uniform):
        def quantize(self, w, bit_width, learned):
            return w.sign()

    network = quantized(QuantScheme(Sign(), act_bit_width=32))
    plain = copy.deepcopy(network)
    revert(plain)
    with torch.no_grad():
        for module in plain.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.sign_()
    assert torch.equal(network(images()), plain(images()))


def test_the_learned_step_of_weights_starts_from_them():
    network = small_resnet()
    convert(network, QuantScheme(LSQ(), weight_bit_width=3, act_bit_width=32))
    conv = network.stages[0][0].conv1
    assert conv.weight_quantizer.step.item() == pytest.approx(2 * conv.weight.abs().mean().item() / 3**0.5)


class Called(nn.Module):
    """Calls its modules by position, or by the name that torch gives the argument; one that looks cannot be traced."""

    def __init__(self, by_name, looks):
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.up, self.head = nn.ConvTranspose2d(4, 4, 2), nn.Linear(4, 2)
        self.by_name, self.looks = by_name, looks

    def forward(self, x):
        for layer in (self.conv, self.bn, self.relu, self.up, self.relu):
            x = layer(input=x) if self.by_name else layer(x)
        if self.looks and x.sum().isnan():
            return x
        x = x.mean((2, 3))
        return self.head(input=x) if self.by_name else self.head(x)


@pytest.mark.parametrize("looks", [False, True], ids=["traced", "watched"])
@pytest.mark.filterwarnings("ignore:.*cannot be traced")
def test_modules_that_are_called_by_the_name_of_their_argument_are_as_any_other(looks):
    found = []
    for by_name in (False, True):
        torch.manual_seed(0)
        scheme = QuantScheme(LSQ(), LSQPlus(), 4, 4, allow_float=("up",))
        network = quantized(scheme, Called(by_name, looks).eval())
        frozen = freeze(network)
        logits, features = with_features(network, images())
        counted, noise = cost(network, (3, 16, 16)), activation_statistics(network, images())
        found.append((logits, features, frozen(images()), counted, [site.snr for site in noise.values()]))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_a_relu_that_is_called_twice_by_the_name_of_its_argument_becomes_two():
    class Twice(Called):
        def forward(self, x):
            x = self.relu(input=self.conv(input=x))
            return self.head(self.relu(input=self.bn(input=x)).mean((2, 3)))

    sites = convert(Twice(True, False), QuantScheme(weight_bit_width=32, allow_float=("up",)))
    assert [site.name for site in sites] == ["relu", "relu_1"]


def test_a_forward_pass_that_tracing_would_not_see_keeps_a_network_from_being_traced():
    network = nn.Sequential(nn.Conv2d(3, 4, 1))
    network.forward = lambda x: network[0](2 * x)
    with pytest.raises(ValueError, match="cannot be traced: its forward pass is replaced on this instance"):
        find_graph(network)
