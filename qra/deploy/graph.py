"""An ONNX graph under construction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from qra.deploy.packing import pack

FLOAT, DOUBLE, INT8, UINT8, INT32 = (
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT32,
)


class Graph:
    """Nodes and constants, in order. Equal constants are stored once.

    Args:
        opset: Version of the operators.
        packed: Whether weights are stored with fewer than 8 bits in the file where possible.
    """

    def __init__(self, opset: int, packed: bool) -> None:
        self.opset, self.packed = opset, packed
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._known: dict[tuple[Any, ...], str] = {}
        self._layers: set[str] = set()
        self._count = 0

    def constant(self, value: ArrayLike, dtype: Any = np.float32) -> str:
        """Add a constant and return its name."""
        array = np.ascontiguousarray(np.asarray(value, dtype=dtype))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = name = f"constant_{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(array, name))
        return self._known[key]

    def weights(self, codes: NDArray[np.int64], name: str) -> str:
        """Add 8-bit weights, packed in the file and int8 for the nodes that use them, and return their name.

        A layer whose sums are used twice is written twice, with equal weights or with flipped signs.
        """
        key = (name, codes.shape, codes.tobytes())
        if key not in self._known:
            self._known[key] = self._weights(codes, f"{name}.weight" + f"_{len(self._known)}" * (name in self._layers))
            self._layers.add(name)
        return self._known[key]

    def _weights(self, codes: NDArray[np.int64], initializer: str) -> str:
        tensor, table = pack(codes, initializer, self.opset, self.packed)
        self.constants.append(tensor)
        if table is not None:
            places = self.add("Cast", [initializer], to=INT32)
            return self.add("Gather", [self.constant(table, np.int8), places], axis=0)
        return initializer if tensor.data_type == INT8 else self.add("Cast", [initializer], to=INT8)

    def add(
        self, kind: str, inputs: Sequence[str], name: str | None = None, outputs: int = 1, **attributes: Any
    ) -> str:
        """Append a node and return the name of its first result.

        Args:
            kind: Type of the operator.
            inputs: Names of the inputs.
            name: Name of the first result.
            outputs: Number of results; the others are named with ``_1``, ``_2`` and so on appended.
            attributes: Attributes of the operator.
        """
        self._count += 1
        first = name or f"{kind}_{self._count}"
        names = [first, *(f"{first}_{number}" for number in range(1, outputs))]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return first

    def model(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto], about: dict[str, str]
    ) -> onnx.ModelProto:
        """Return the graph as a model, after ONNX's checker has accepted it."""
        graph = helper.make_graph(self.nodes, "qra", list(inputs), list(outputs), self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], producer_name="qra")
        model.ir_version = min(helper.find_min_ir_version_for(model.opset_import), onnx.IR_VERSION)
        helper.set_model_props(model, about)
        onnx.checker.check_model(model, full_check=True)
        return model
