"""``qra export`` writes all files of a network, or none, and says in one line what it cannot do."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from deploy.exports import checkpoint
from small import CALIBRATED, TRAINED, calibrated, images, resnet, run, trained

import qra
from qra.checkpoint import KEY
from qra.deploy import card, folder
from qra.deploy.export import main
from qra.deploy.program import Program
from qra.deploy.twin import IntegerNetwork
from qra.quant import Fixed
from qra.rebuild import rebuild

FILES = {"model.onnx", "model.integer.onnx", "twin.safetensors", "card.json", "README.md"}


@pytest.fixture(scope="module")
def trained_file(tmp_path_factory):
    scheme = TRAINED["W4A4-DoReFa"]
    return checkpoint(tmp_path_factory.mktemp("export") / "small.ckpt", trained(scheme), scheme)


def export(file, out, *options):
    main(["--ckpt_path", file, "--out", str(out), "--resolution", "16", *options])
    return json.loads((out / "card.json").read_text())


@pytest.fixture(scope="module")
def exported(trained_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "out"
    return out, export(trained_file, out)


def test_an_export_holds_models_twin_and_card_of_one_program(exported):
    out, found = exported
    assert {path.name for path in out.iterdir()} == FILES
    twin, model = qra.load(out / "twin.safetensors"), onnx.load(out / "model.integer.onnx")
    assert torch.equal(run(model, images(3))[0], twin(images(3)))
    sha256 = Program.load(out / "twin.safetensors").sha256
    assert found["export"]["program"] == sha256 == {entry.key: entry.value for entry in model.metadata_props}["program"]
    assert found["label"] == "W4A4 (DoReFa weights, PACT activations)"
    assert found["saturates_without_vnni"] == ["conv1"]
    assert card.read(out).name == "small"


def test_multiply_adds_are_those_of_the_network(exported):
    counts = exported[1]["multiply_adds"]
    assert sum(counts.values()) == qra.quant.cost(resnet(), (3, 16, 16)).multiply_adds


def test_a_form_may_be_left_out(trained_file, tmp_path):
    export(trained_file, tmp_path / "out", "--form", "integer")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES - {"model.onnx"}


@pytest.mark.parametrize(("way", "terms"), [("int8", 1), pytest.param("exact", 4, marks=pytest.mark.slow)])
def test_piecewise_linear_weights_become_one_convolution_or_several(way, terms, tmp_path):
    scheme = CALIBRATED["pwlq"]
    fixed = replace(scheme, weight=Fixed(scheme.weight, True))
    file = checkpoint(tmp_path / "a.ckpt", calibrated(scheme, True), fixed)
    found = export(file, tmp_path / "out", "--pwlq", way)
    program = Program.load(tmp_path / "out/twin.safetensors")
    assert {op.sources.count("stages.0.0.conv1") for op in program.ops} == {0, terms}
    assert found["export"]["pwlq"] == way
    assert any("requantized" in limit for limit in found["limits"]) == (way == "int8")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--opset", "13"], "opset 13 is not in"),
        (["--resolution", "0"], "--resolution"),
        (["--form", "other"], "--form"),
        (["--ckpt_path", "nowhere.ckpt"], "there is no such checkpoint"),
        (["--resolution", "100000"], "small.ckpt: conv1 makes 240,000,000,000 values per image"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(trained_file, tmp_path, options, reason):
    with pytest.raises(ValueError, match=reason):
        export(trained_file, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_a_float_checkpoint_is_refused(tmp_path):
    file = checkpoint(tmp_path / "float.ckpt", resnet(), None)
    with pytest.raises(ValueError, match=r"float.ckpt: the network is float: quantize it"):
        export(file, tmp_path / "out")


def test_a_directory_that_is_not_empty_is_refused(trained_file, tmp_path):
    Path(tmp_path / "kept").write_text("mine")
    with pytest.raises(ValueError, match="is not empty: give a new one by --out"):
        export(trained_file, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"kept"}


def test_a_file_in_the_place_of_the_directory_is_refused(trained_file, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match="is not a directory: give a new one by --out"):
        export(trained_file, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_an_export_that_breaks_off_leaves_nothing(trained_file, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(card, "write", full)
    with pytest.raises(OSError, match="No space left"):
        export(trained_file, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_twin_is_not_exported_again(exported, tmp_path):
    with pytest.raises(ValueError, match="is the twin of an export: export the checkpoint that it was made from"):
        export(str(exported[0] / "twin.safetensors"), tmp_path / "out")


OWN = """
from qra.models import ResNet
from qra.quant import SAWB

class Network(ResNet):
    def __init__(self, width: int):
        super().__init__((1, 1), (width, 2 * width))

class Weights(SAWB): ...
"""
CONFIG = """
model:
  init_args:
    network: {class_path: own_to_export.Network, init_args: {width: 8}}
    scheme: {weight: {class_path: own_to_export.Weights}}
"""


def test_a_network_and_a_quantizer_of_ones_own_are_exported_by_the_config_of_their_run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_to_export", raising=False)
    (tmp_path / "own_to_export.py").write_text(OWN)
    (tmp_path / "config.yaml").write_text(CONFIG)
    scheme = TRAINED["W4A4-SAWB"]
    described = {"class_path": "own_to_export.Network", "init_args": {"width": 8}}
    file = checkpoint(tmp_path / "own.ckpt", trained(scheme), scheme, described)
    content = torch.load(file)
    content[KEY]["scheme"]["init_args"]["weight"]["class_path"] = "own_to_export.Weights"
    torch.save(content, file)
    with pytest.raises(ValueError, match=r"own_to_export.Network.* takes --config, the config.yaml of its run"):
        export(file, tmp_path / "out")
    found = export(file, tmp_path / "out", "--config", str(tmp_path / "config.yaml"))
    assert found["label"] == "W4A4 (Weights weights, LSQActivation activations)"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model: {}", "config.yaml: has no model.network: give the config.yaml of a run"),
        (CONFIG.replace("own_to_export", "not_there"), "not_there.Network cannot be imported .*is it on PYTHONPATH"),
        (CONFIG.replace("own_to_export.Network", "qra.models.ResNet"), "config.yaml: model.network cannot be made"),
    ],
)
def test_a_config_without_a_network_is_refused(text, reason, trained_file, tmp_path):
    (tmp_path / "config.yaml").write_text(text.replace("own_to_export", "qra.quant"))
    with pytest.raises(ValueError, match=reason):
        export(trained_file, tmp_path / "out", "--config", str(tmp_path / "config.yaml"))


RESNETS = {depth: {"class_path": f"qra.models.resnet{depth}", "init_args": {}} for depth in (44, 56)}
TORCHVISION = {
    "class_path": "qra.models.Normalized",
    "init_args": {"network": {"class_path": "torchvision.models.resnet18", "init_args": {"num_classes": 10}}},
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:ReLUs that are called as functions")
@pytest.mark.parametrize("description", [RESNETS[44], RESNETS[56], TORCHVISION])
def test_deep_networks_are_exported_for_both_engines(description, tmp_path):
    torch.manual_seed(0)
    scheme, made = TRAINED["W4A4-DoReFa"], rebuild(description)
    export(checkpoint(tmp_path / "deep.ckpt", trained(scheme, made.eval()), scheme, description), tmp_path / "out")
    exported, x = folder.read(tmp_path / "out"), images(4)
    expected = IntegerNetwork(exported.program)(x).argmax(1)
    runs = folder.runs(exported, ["onnxruntime", "openvino"])
    assert [each.name for each in runs] == ["onnxruntime", "openvino", "onnxruntime, integer form"]
    for each in runs:
        assert torch.equal(each.engine(x).argmax(1), expected)
