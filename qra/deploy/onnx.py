"""Programs as files of ONNX, for engines: in integers, or with quantization and its inverse around float layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import onnx
from onnx import TensorProto, helper

from qra.checks import check_choice
from qra.deploy.float_form import FloatForm
from qra.deploy.form import Form as Writer
from qra.deploy.graph import FLOAT, Graph
from qra.deploy.integer_form import IntegerForm
from qra.deploy.ops import IMAGE, LOGITS, Requantize
from qra.deploy.program import Program
from qra.deploy.qdq_form import QDQForm

Form = Literal["integer", "qdq", "float"]
"""``integer`` is the program bit for bit; ``qdq`` is what engines make fast integer kernels of; ``float`` rounds
nothing, and is there to be timed against."""
ImageType = Literal["bytes", "float"]
"""What the model takes: bytes, or pixels in [0, 1] that it rounds to bytes."""

FORMS: Mapping[str, type[IntegerForm | QDQForm]] = {"integer": IntegerForm, "qdq": QDQForm, "float": FloatForm}

LEAST_OPSET = 13
"""The first version of the operators with a scale for each channel."""
PACKED_OPSET = 21
"""The first version with numbers of 4 bits."""


def to_onnx(
    program: Program,
    form: Form = "integer",
    pack: bool = True,
    opset: int = PACKED_OPSET,
    input: ImageType = "bytes",
    taps: bool = False,
) -> onnx.ModelProto:
    """Write a program as a model of ONNX: ``image`` to ``logits``, any number of images.

    Args:
        program: What the model computes.
        form: ``integer``, the program bit for bit, ``qdq``, quantization and its inverse around layers, or ``float``,
            no rounding.
        pack: Whether weights of at most 4 bits take 4 in the file, and of at most 2 bits 2 where ``opset`` has them.
        opset: Version of the operators; 21 has numbers of 4 bits, 25 of 2.
        input: Type of ``image``: uint8, or float32 in [0, 1].
        taps: Whether the codes of each requantization are outputs too, by name.

    Raises:
        ValueError: If a choice is none of these, or there are no such operators.
    """
    check_choice("form", form, get_args(Form))
    check_choice("input", input, get_args(ImageType))
    least = PACKED_OPSET if pack else LEAST_OPSET
    newest = onnx.defs.onnx_opset_version()
    if not least <= opset <= newest:
        packed = f" (below {PACKED_OPSET} weights cannot be packed: --pack false)" if pack else ""
        raise ValueError(f"opset {opset} is not among {least} to {newest}{packed}")
    graph = Graph(opset, pack)
    writer = FORMS[form](graph, program)
    writer.write(IMAGE if input == "bytes" else _bytes(graph))
    image = TensorProto.UINT8 if input == "bytes" else FLOAT
    last = program[LOGITS]
    classes = int(vars(last)["factors"].shape[1])
    outputs = [helper.make_tensor_value_info(LOGITS, FLOAT, ["n", classes])]
    if taps:
        outputs += [_tap(graph, writer, op) for op in program.ops if isinstance(op, Requantize)]
    inputs = [helper.make_tensor_value_info(IMAGE, image, ["n", *program.image_shape])]
    return graph.model(inputs, outputs, {"form": form, "program": program.sha256})


def _bytes(graph: Graph) -> str:
    """Pixels in [0, 1], rounded to bytes."""
    scaled = graph.add("Round", [graph.add("Mul", [IMAGE, graph.constant(255)])])
    limited = graph.add("Clip", [scaled, graph.constant(0), graph.constant(255)])
    return graph.add("Cast", [limited], to=TensorProto.UINT8)


def _tap(graph: Graph, writer: Writer, op: Requantize) -> onnx.ValueInfoProto:
    """The codes of a requantization as an output of their own."""
    name = graph.add("Identity", [writer.names[op.name]], f"codes:{op.name}")
    return helper.make_tensor_value_info(name, writer.tap_type(op), ["n", *writer.shapes[op.name]])
