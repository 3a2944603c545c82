"""What a checkpoint, an untrusted file, may have made: names of a list and plain values, within limits."""

import inspect
import sys
import time
from types import ModuleType

import pytest
import torch
import torchvision

from qra import models, rebuild
from qra.describe import describe
from qra.quant import PACT, SAWB, QuantScheme


def named(class_path, **arguments):
    return {"class_path": class_path, "init_args": arguments}


def test_a_network_is_rebuilt_from_its_description():
    network = models.resnet32(num_classes=7, mean=(0.1, 0.2, 0.3))
    again = rebuild.rebuild(describe(network))
    assert again.state_dict().keys() == network.state_dict().keys()
    assert again.fc.out_features == 7
    assert torch.equal(again.normalize.mean, network.normalize.mean)


def test_a_wrapped_network_of_torchvision_is_rebuilt_as_a_config_describes_it():
    inner = named("torchvision.models.resnet18", weights=None, progress=True, num_classes=4, norm_layer=None)
    network = rebuild.rebuild(named("qra.models.Normalized", network=inner, mean=[0.5, 0.5, 0.5], std=[1.0, 1.0, 1.0]))
    assert isinstance(network.network, torchvision.models.ResNet)
    assert network.network.fc.out_features == 4


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "regnet_y_400mf", "densenet121"])
def test_networks_of_torchvision_stay_within_the_limits(name):
    assert rebuild.rebuild(named(f"torchvision.models.{name}", num_classes=10)).training


@pytest.fixture(scope="module")
def callables():
    """The path of every callable in the modules of torch, torchvision and qra that are imported."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("torch", "torchvision", "qra") and module is not None:
            found |= {f"{name}.{key}": value for key, value in list(vars(module).items()) if callable(value)}
    assert len(found) > 10_000
    return found


def test_nothing_else_of_torch_torchvision_and_qra_is_taken_for_a_network(callables):
    builders = {torchvision.models.get_model_builder(name) for name in torchvision.models.list_models()}
    taken = callables.keys() & rebuild.network_makers().keys()
    assert len(taken) > 10
    for path in taken:
        own = inspect.getmodule(callables[path]).__name__.startswith(("qra.models.", "qra.deploy.twin"))
        assert own or callables[path] in builders, path
    for path in list(callables.keys() - taken)[::100]:
        with pytest.raises(ValueError, match="which qra does not know"):
            rebuild.rebuild(named(path))


def test_nothing_else_of_torch_torchvision_and_qra_is_taken_for_a_quantizer(callables):
    taken = callables.keys() & rebuild.quantizer_makers().keys()
    assert len(taken) > 10
    for path in taken:
        assert issubclass(callables[path], rebuild._QUANTIZERS), path
    for path in list(callables.keys() - taken)[::100]:
        with pytest.raises(ValueError, match="which qra does not know"):
            rebuild.rebuild_scheme(named(path))


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        (named("os.system", command="true"), "which qra does not know"),
        (named("torch.hub.load"), "which qra does not know"),
        (named("torch.nn.Linear", in_features=10**9, out_features=10**9), "which qra does not know"),
        (named("qra.checkpoint.load", path="x"), "which qra does not know"),
        (named("torchvision.models.resnet18", weights="DEFAULT"), "weights would be downloaded"),
        (named("torchvision.models.resnet18", pretrained=True), "pretrained would be downloaded"),
        (named("torchvision.models.segmentation.fcn_resnet50"), "which qra does not know"),
        (named("qra.models.resnet20", num_classes=10**9), "a number beyond"),
        (named("qra.models.ResNet", blocks=[10**6] * 3, channels=[1, 1, 1]), "larger than any network"),
        (named("qra.models.ResNet", blocks=[1], channels=[30_000]), "larger than any network"),
        (named("qra.models.resnet20", num_classes=-1), r"cannot be rebuilt \("),
        (named("qra.models.resnet20", num_classes="x"), r"cannot be rebuilt \("),
        (named("qra.models.resnet20", classes=3), "unexpected keyword"),
        (named("qra.models.Normalized", network=named("qra.data.CIFAR10DataModule")), "which qra does not know"),
        (named("qra.models.resnet20", mean=[0.5] * 2000), "description is too large"),
        (named("qra.models.resnet20", mean="a" * 2000), "description is too large"),
        (named("qra.models.resnet20", mean=torch.zeros(3)), "not a plain value"),
        ({"class_path": "qra.models.resnet20", "init_args": [1]}, "not a mapping"),
        ({"class_path": 3}, "pass the network yourself"),
        ({}, "pass the network yourself"),
        ("resnet20", "pass the network yourself"),
        (None, "pass the network yourself"),
    ],
)
def test_what_is_no_description_of_a_network_is_refused_at_once(description, reason):
    start = time.monotonic()
    with pytest.raises(ValueError, match=reason):
        rebuild.rebuild(description)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("depth", [13, 1000])
@pytest.mark.parametrize("wrap", [lambda x: named("qra.models.Normalized", network=x), lambda x: [x]])
def test_a_description_that_nests_deep_is_refused(depth, wrap):
    inner = 1
    for _ in range(depth):
        inner = wrap(inner)
    with pytest.raises(ValueError, match="nests deeper"):
        rebuild.rebuild(named("qra.models.Normalized", network=inner))


def test_a_quantizer_of_another_module_may_be_named_only_once_that_is_imported(monkeypatch):
    description = named("qra.quant.QuantScheme", weight=named("elsewhere.Mine"), activation=named("qra.quant.PACT"))
    with pytest.raises(ValueError, match=r"elsewhere.Mine, which qra does not know: import its module first"):
        rebuild.rebuild_scheme(description)
    elsewhere = ModuleType("elsewhere")
    elsewhere.Mine = type("Mine", (SAWB,), {"__module__": "elsewhere"})
    monkeypatch.setitem(sys.modules, "elsewhere", elsewhere)
    scheme = rebuild.rebuild_scheme(description)
    assert isinstance(scheme.weight, elsewhere.Mine)
    assert isinstance(scheme.activation, PACT)
    elsewhere.run = print
    with pytest.raises(ValueError, match="which qra does not know"):
        rebuild.rebuild_scheme(named("elsewhere.run"))


def test_a_quantizer_alone_is_no_scheme():
    assert rebuild.rebuild_scheme(describe(QuantScheme())) == QuantScheme()
    with pytest.raises(ValueError, match="its quantization scheme is a SAWB"):
        rebuild.rebuild_scheme(named("qra.quant.SAWB"))
