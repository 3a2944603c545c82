"""Programs as ONNX files for engines: in integers, or with quantize and dequantize nodes around float layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import onnx
from onnx import helper

from qra.checks import check_choice
from qra.deploy.float_form import FloatForm
from qra.deploy.form import Form as Writer
from qra.deploy.graph import FLOAT, UINT8, Graph
from qra.deploy.integer_form import IntegerForm
from qra.deploy.ops import IMAGE, LOGITS, Requantize
from qra.deploy.program import Program
from qra.deploy.qdq_form import QDQForm

Form = Literal["integer", "qdq", "float"]
"""Form of a model.

``integer`` is the program bit for bit; from ``qdq``, engines build fast integer kernels; ``float`` does not round and
is the baseline of timings.
"""
ImageType = Literal["bytes", "float"]
"""Input of the model: bytes, or pixels in [0, 1] that the model rounds to bytes."""

FORMS: Mapping[str, type[IntegerForm | QDQForm]] = {"integer": IntegerForm, "qdq": QDQForm, "float": FloatForm}

LEAST_OPSET = 13
"""The first opset with per-channel scales."""
PACKED_OPSET = 21
"""The first opset with 4-bit integers."""


def to_onnx(
    program: Program,
    form: Form = "integer",
    pack: bool = True,
    opset: int = PACKED_OPSET,
    input: ImageType = "bytes",
    taps: bool = False,
) -> onnx.ModelProto:
    """Write a program as an ONNX model from ``image`` to ``logits``, for any number of images.

    Args:
        program: The program that the model computes.
        form: ``integer``, the program bit for bit; ``qdq``, quantize and dequantize nodes around layers; or ``float``,
            without rounding.
        pack: Whether weights of at most 4 bits are stored with 4 bits in the file, and of at most 2 bits with 2 if
            ``opset`` supports it.
        opset: Version of the operators; 21 added 4-bit integers, 25 added 2-bit integers.
        input: Type of ``image``: uint8, or float32 in [0, 1].
        taps: Whether the codes of each requantization are outputs too, named ``codes:`` and the name of the operation.

    Raises:
        ValueError: If ``form`` or ``input`` is unknown, or ``opset`` is not supported.
    """
    check_choice("form", form, get_args(Form))
    check_choice("input", input, get_args(ImageType))
    least = PACKED_OPSET if pack else LEAST_OPSET
    newest = onnx.defs.onnx_opset_version()
    if not least <= opset <= newest:
        packed = f" (below {PACKED_OPSET} weights cannot be packed: --pack false)" if pack else ""
        raise ValueError(f"opset {opset} is not in {least} to {newest}{packed}")
    graph = Graph(opset, pack)
    writer = FORMS[form](graph, program)
    writer.write(IMAGE if input == "bytes" else _bytes(graph))
    image = UINT8 if input == "bytes" else FLOAT
    last = program[LOGITS]
    classes = int(vars(last)["factors"].shape[1])
    outputs = [helper.make_tensor_value_info(LOGITS, FLOAT, ["n", classes])]
    if taps:
        outputs += [_tap(graph, writer, op) for op in program.ops if isinstance(op, Requantize)]
    inputs = [helper.make_tensor_value_info(IMAGE, image, ["n", *program.image_shape])]
    return graph.model(inputs, outputs, {"form": form, "program": program.sha256})


def _bytes(graph: Graph) -> str:
    """Round pixels in [0, 1] to bytes."""
    scaled = graph.add("Round", [graph.add("Mul", [IMAGE, graph.constant(255)])])
    limited = graph.add("Clip", [scaled, graph.constant(0), graph.constant(255)])
    return graph.add("Cast", [limited], to=UINT8)


def _tap(graph: Graph, writer: Writer, op: Requantize) -> onnx.ValueInfoProto:
    """Add the codes of a requantization as an output."""
    name = graph.add("Identity", [writer.names[op.name]], f"codes:{op.name}")
    return helper.make_tensor_value_info(name, writer.tensor_type_of(op.name), ["n", *writer.shapes[op.name]])
