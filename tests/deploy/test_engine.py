"""Engines as networks: bytes in, faithful options, one line where something does not fit."""

import sys

import numpy as np
import pytest
import torch
from deploy.graphs import linear, model
from onnx import TensorProto, helper, numpy_helper

from qra.attacks import Square
from qra.deploy import engine as engines
from qra.deploy.engine import Engine
from qra.evaluation.robustness import attack_examples
from qra.types import Batch

each_engine = pytest.mark.parametrize("name", ["onnxruntime", "openvino"])


def images(n=5):
    return torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@each_engine
def test_pixels_become_bytes_before_they_reach_the_model(name):
    engine, x = Engine(linear(), name), images()
    rounded = (x * 255).round() / 255
    assert torch.equal(engine(x), engine(rounded))
    assert not torch.equal(engine(x), engine((rounded - 1 / 255).clamp(0, 1)))


@each_engine
def test_a_model_of_float_pixels_gets_those_of_bytes(name):
    engine, x = Engine(linear(dtype=TensorProto.FLOAT), name), images()
    torch.testing.assert_close(255 * engine(x), Engine(linear(), name)(x), rtol=1e-4, atol=0.5)


@each_engine
def test_an_attack_without_gradients_takes_an_engine_as_it_is(name):
    engine, x = Engine(linear(), name), (images() * 255).round() / 255
    batch = Batch(x, engine(x).argmax(1), torch.arange(len(x)))
    found = attack_examples(engine, Square(16 / 255, queries=20), batch, None, "bytes")
    assert torch.equal(found.correct, engine(found.x_adv).argmax(1) == batch.y)
    assert (~found.correct).any()


@each_engine
def test_what_keeps_an_engine_faithful_is_set_and_recorded(name):
    record = Engine(linear(), name, threads=2).record()
    assert (record["engine"], record["threads"], record["engine_defaults"]) == (name, 2, False)
    for option, value in engines.RUNTIMES[name].faithful.items():
        assert record["options"][option] in (value, "<Type: 'float32'>")
    assert len(record["options"]) > 10
    assert len(record["model_sha256"]) == 64


def test_the_defaults_of_an_engine_are_taken_only_when_asked_for():
    record = Engine(linear(), "onnxruntime", engine_defaults=True).record()
    assert "session.disable_quant_qdq" not in record["options"]


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("onnxruntime", {"session.disable_quant_qdq": "0"}),
        ("openvino", {"INFERENCE_PRECISION_HINT": "bf16"}),
        ("openvino", {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "32"}),
    ],
)
def test_an_option_that_breaks_parity_is_refused_with_the_way_to_measure_it(name, option):
    with pytest.raises(ValueError, match=r"changes decisions.*--engine_defaults true"):
        Engine(linear(), name, options=option)


@each_engine
def test_what_does_not_fit_is_refused_in_one_line(name):
    engine = Engine(linear(), name)
    with pytest.raises(ValueError, match=r"takes images of \(3, 4, 4\), not of \(3, 5, 5\)"):
        engine(torch.zeros(1, 3, 5, 5))
    with pytest.raises(ValueError, match="takes uint8"):
        engine.run(np.zeros((1, 3, 4, 4), np.float32))
    with pytest.raises(ValueError, match="divide bytes by 255"):
        engine(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        engine(torch.full((1, 3, 4, 4), 255.0))


@each_engine
def test_a_file_that_is_no_model_is_refused_by_name(name, tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"no model")
    with pytest.raises(ValueError, match=rf"model.onnx: {name} \S+ cannot load it") as found:
        Engine(file, name)
    assert "\n" not in str(found.value)
    with pytest.raises(ValueError, match="there is no such model"):
        Engine(tmp_path / "none.onnx", name)


@each_engine
def test_without_the_extra_one_line_says_how_to_install_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    extra = engines.RUNTIMES[name].extra
    advice = rf"^{name} is not installed: pip install 'quantization-robustness\[{extra}\]', or name other --engines$"
    with pytest.raises(ValueError, match=advice):
        Engine(linear(), name)


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="choose onnxruntime or openvino"):
        Engine(linear(), "tensorrt")


def sums(*shape, output="logits", **given):
    """A model of the sum of all that it takes."""
    nodes = [
        helper.make_node("Flatten", ["image"], ["row"]),
        helper.make_node("ReduceSum", ["row"], [output], keepdims=1, noop_with_empty_axes=0),
    ]
    return model(nodes, [], shape, 1, TensorProto.FLOAT, output=output, **given)


@each_engine
@pytest.mark.parametrize(
    ("shape", "given"), [((3, "h", "w"), {}), ((3, 4, 4), {"batch": 1}), ((48,), {}), ((3, 4, 4), {"output": "scores"})]
)
def test_a_model_that_is_none_of_an_export_is_refused(name, shape, given):
    with pytest.raises(ValueError, match="is not a model of qra export"):
        Engine(sums(*shape, **given), name)


def test_what_an_engine_says_while_it_runs_is_said_in_one_line():
    nodes = [helper.make_node("Reshape", ["image", "lengths"], ["logits"])]
    engine = Engine(
        model(nodes, [numpy_helper.from_array(np.array([7, 5]), "lengths")], (3, 4, 4), 5, TensorProto.FLOAT)
    )
    with pytest.raises(ValueError, match="onnxruntime fails on 2 images: ") as found:
        engine(images(2))
    assert "\n" not in str(found.value)


def test_an_option_that_openvino_does_not_know_is_named():
    with pytest.raises(ValueError, match="cannot load it: NotFound: Unsupported property NOPE"):
        Engine(linear(), "openvino", options={"NOPE": "1"})
