"""Small ONNX graphs, written by hand."""

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper


def linear(classes=4, shape=(3, 4, 4), dtype=TensorProto.UINT8, packed=False):
    """A linear layer on the bytes of an image, or on pixels in [0, 1], as the content of a file."""
    weight = np.random.default_rng(0).integers(-7, 8, (classes, int(np.prod(shape)))).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["values"], ["row"]),
        helper.make_node("Gemm", ["row", "weight"], ["logits"], transB=1),
    ]
    initializers = [numpy_helper.from_array(weight, "weight")]
    return model(nodes, initializers, shape, classes, dtype)


def model(nodes, initializers, shape, classes, dtype=TensorProto.UINT8, batch="n", output="logits"):
    image = helper.make_tensor_value_info("image", dtype, [batch, *shape])
    logits = helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, classes])
    graph = helper.make_graph(nodes, "small", [image], [logits], initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    checker.check_model(made)
    return made.SerializeToString()
