import sys
from types import ModuleType

import pytest
import torch
import torchvision

from qra import models
from qra.attacks import PGD, GaussianStart
from qra.describe import describe, rebuild, rebuild_as
from qra.quant import SAWB, WeightQuantizer


def test_a_network_is_rebuilt_from_its_description():
    network = models.resnet32(num_classes=7, mean=(0.1, 0.2, 0.3))
    again = rebuild(describe(network))
    assert again.state_dict().keys() == network.state_dict().keys()
    assert again.fc.out_features == 7
    assert torch.equal(again.normalize.mean, network.normalize.mean)


def test_a_wrapped_foreign_network_is_rebuilt_when_the_config_describes_it():
    description = {
        "class_path": "qra.models.Normalized",
        "init_args": {
            "network": {"class_path": "torchvision.models.resnet18", "init_args": {"num_classes": 4}},
            "mean": [0.5, 0.5, 0.5],
            "std": [1.0, 1.0, 1.0],
        },
    }
    network = rebuild(description)
    assert isinstance(network.network, torchvision.models.ResNet)
    assert network.network.fc.out_features == 4


def test_settings_are_described_with_what_they_hold():
    described = describe(PGD(eps=4 / 255, start=GaussianStart(0.01)))
    assert described["class_path"] == "qra.attacks.PGD"
    assert described["init_args"]["eps"] == 4 / 255
    assert described["init_args"]["start"] == {
        "class_path": "qra.attacks.GaussianStart",
        "init_args": {"std": 0.01, "seed": 0},
    }


@pytest.mark.parametrize(
    ("class_path", "reason"),
    [
        ("os.system", "outside"),
        ("subprocess.Popen", "outside"),
        ("torch.hub.load", "makes no network"),
        ("torch.load", "makes no network"),
        ("torch.nn.Nonsense", "cannot be imported"),
        ("qra.attacks.PGD", "makes no network"),
    ],
)
def test_a_checkpoint_cannot_name_what_is_no_network(class_path, reason):
    with pytest.raises(ValueError, match=reason):
        rebuild({"class_path": class_path, "init_args": {}})


@pytest.mark.parametrize("description", [None, {}, {"class_path": 3}, "resnet20"])
def test_a_missing_description_asks_for_the_network(description):
    with pytest.raises(ValueError, match="pass the network yourself"):
        rebuild(description)


def test_a_network_around_one_that_is_not_described_is_not_described_either():
    assert describe(models.Normalized(torch.nn.Flatten())) is None


def test_a_checkpoint_may_name_a_quantizer_of_another_package_only_once_that_is_imported(monkeypatch):
    description = {"class_path": "elsewhere.Mine", "init_args": {}}
    with pytest.raises(ValueError, match="import elsewhere first"):
        rebuild_as((WeightQuantizer,), description, "quantizer")
    elsewhere = ModuleType("elsewhere")
    elsewhere.Mine, elsewhere.run = type("Mine", (SAWB,), {}), print
    monkeypatch.setitem(sys.modules, "elsewhere", elsewhere)
    assert isinstance(rebuild_as((WeightQuantizer,), description, "quantizer"), elsewhere.Mine)
    with pytest.raises(ValueError, match="makes no quantizer"):
        rebuild_as((WeightQuantizer,), {"class_path": "elsewhere.run"}, "quantizer")
    with pytest.raises(ValueError, match="pass the network yourself"):
        rebuild(description)
