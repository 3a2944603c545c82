"""Models of ONNX: packed, checked, with inputs of two kinds, and the faithful form of quantization and its inverse."""

import numpy as np
import onnx
import pytest
import torch
from small import CALIBRATED, TRAINED, calibrated, images, programmed, run, session, trained, usual

from qra.deploy.onnx import to_onnx

FAITHFUL = [("session.disable_quant_qdq", "1")]


@pytest.fixture(scope="module")
def made():
    return programmed(trained(TRAINED["W4A4-DoReFa"]))


@pytest.mark.parametrize("form", ["integer", "qdq"])
def test_packed_weights_are_small_in_the_file_and_8_bits_in_the_session(made, form, tmp_path):
    program, _ = made
    packed, wide = (to_onnx(program, form, pack=pack) for pack in (True, False))
    weights = [[t for t in model.graph.initializer if "conv" in t.name] for model in (packed, wide)]
    sizes = [sum(len(tensor.raw_data) for tensor in tensors) for tensors in weights]
    assert sizes[0] <= 0.6 * sizes[1]
    session(packed, optimized_to=tmp_path / "loaded.onnx")
    loaded = onnx.load(tmp_path / "loaded.onnx").graph
    kinds = {tensor.data_type for tensor in loaded.initializer if len(tensor.dims) == 4 and tensor.dims[1] > 3}
    assert kinds <= {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    assert not {"Gather"} & {node.op_type for node in loaded.node if "weight" in node.input[0]}


def test_two_bits_are_packed_where_the_operators_have_them():
    program, twin = programmed(trained(TRAINED["W2A2-DoReFa"]))
    sizes = {}
    for opset in (21, 25):
        model = to_onnx(program, opset=opset)
        sizes[opset] = len(model.SerializeToString())
        assert model.opset_import[0].version == opset
        assert torch.equal(run(model, images(3))[0], twin(images(3)))
    assert sizes[25] < sizes[21]


@pytest.mark.parametrize("form", ["integer", "qdq"])
def test_pixels_are_rounded_to_bytes_by_a_model_that_takes_them(made, form):
    program, _ = made
    x = torch.rand(3, 3, 16, 16)
    found = session(to_onnx(program, form, input="float")).run(None, {"image": x.numpy()})[0]
    assert np.array_equal(found, run(to_onnx(program, form), x)[0].numpy())


@pytest.mark.parametrize("name", usual([*TRAINED, *CALIBRATED], ("W2A2-DoReFa", "W8A8-Uniform", "pwlq")))
def test_the_qdq_form_has_the_codes_of_the_program(name):
    network = trained(TRAINED[name]) if name in TRAINED else calibrated(CALIBRATED[name], bias_corrected=True)
    program, twin = programmed(network)
    x, model = images(8), to_onnx(program, "qdq", taps=True)
    logits, *codes = run(model, x, options=FAITHFUL)
    expected = twin.codes(x)
    names = [output.name.removeprefix("codes:") for output in model.graph.output][1:]
    assert names == list(expected)
    differ = sum(int((a.float() != b).sum()) for a, b in zip(codes, expected.values(), strict=True))
    assert differ <= 1e-3 * sum(value.numel() for value in codes)
    assert (logits.argmax(1) == twin(x).argmax(1)).all()


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        ({"opset": 20}, "opset 20 is not in 21 .*--pack false"),
        ({"opset": 12, "pack": False}, "opset 12 is not in 13"),
        ({"opset": 99}, "opset 99 is not in"),
        ({"form": "qlinear"}, "form"),
        ({"input": "bfloat16"}, "input"),
    ],
)
def test_choices_that_there_are_not_are_refused(made, choices, reason):
    with pytest.raises(ValueError, match=reason):
        to_onnx(made[0], **choices)
