"""Common parts of all ONNX forms of a program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from qra.deploy.bounds import are_bytes, ranges, shapes, sums
from qra.deploy.graph import Graph
from qra.deploy.ops import (
    IMAGE,
    Combine,
    Convolution,
    Flatten,
    Linear,
    Op,
    Part,
    Real,
    Requantize,
    Shortcut,
    WindowMax,
    WindowSum,
)
from qra.deploy.program import Program

Floats = NDArray[np.float32]


class Form(ABC):
    """Writes the operations of a program into a graph.

    Attributes:
        names: Names of values in the graph, by their names in the program.

    Args:
        graph: The graph to write into.
        program: The program to write.
    """

    def __init__(self, graph: Graph, program: Program) -> None:
        self.graph, self.program = graph, program
        self.names: dict[str, str] = {}
        self.shapes, self.codes = shapes(program), ranges(program)
        self.bounds = dict(sums(program))
        self._pieces: dict[tuple[str, Part], str] = {}
        self._writers: Mapping[type[Op], Callable[[Any], None]] = {
            Convolution: self.convolution,
            Linear: self.linear,
            WindowSum: self.window_sum,
            WindowMax: self.window_max,
            Shortcut: self.shortcut,
            Flatten: self.flatten,
            Requantize: self.combine,
            Real: self.combine,
        }

    def write(self, image: str) -> None:
        """Write all operations.

        Args:
            image: Name of the image's bytes in the graph.
        """
        self.names[IMAGE] = image
        for op in self.program.ops:
            self._writers[type(op)](op)

    @abstractmethod
    def convolution(self, op: Convolution) -> None:
        """Write a convolution."""

    @abstractmethod
    def linear(self, op: Linear) -> None:
        """Write a linear layer."""

    @abstractmethod
    def window_sum(self, op: WindowSum) -> None:
        """Write sums over windows."""

    @abstractmethod
    def combine(self, op: Combine) -> None:
        """Write a weighted sum."""

    # ----- common to all forms -----

    def window_max(self, op: WindowMax) -> None:
        """Write a maximum over windows."""
        pads = [*op.padding, *op.padding]
        inputs = [self.names[op.source]]
        self.names[op.name] = self.graph.add(
            "MaxPool", inputs, op.name, kernel_shape=op.kernel, strides=op.stride, pads=pads
        )

    def shortcut(self, op: Shortcut) -> None:
        """Write a strided selection of pixels, with channels of zeros."""
        x = self.names[op.source]
        if op.step != (1, 1):
            ends = [np.iinfo(np.int64).max] * 2
            lengths = ([0, 0], ends, [2, 3], op.step)
            x = self.graph.add("Slice", [x, *(self.graph.constant(part, np.int64) for part in lengths)])
        if any(op.channels):
            before, after = op.channels
            pads = self.graph.constant([0, before, 0, 0, 0, after, 0, 0], np.int64)
            x = self.graph.add("Pad", [x, pads, self.zero(op.source)])
        self.names[op.name] = x

    def zero(self, name: str) -> str:
        """Return a constant zero in the type of a value."""
        return self.graph.constant(0, self.type_of(name))

    def type_of(self, name: str) -> type[np.generic]:
        """Return the type of a value in the graph: uint8 or int8 for codes that fit, else float32."""
        low, high = self.codes.get(name, (0, 256))
        return np.float32 if not are_bytes(low, high) else np.uint8 if low >= 0 else np.int8

    def tensor_type_of(self, name: str) -> int:
        """Return the same type as ONNX numbers it."""
        return helper.np_dtype_to_tensor_dtype(np.dtype(self.type_of(name)))

    def flatten(self, op: Flatten) -> None:
        """Write a flattening of each image."""
        self.names[op.name] = self.graph.add("Flatten", [self.names[op.source]], op.name, axis=1)

    def channels(self, part: Part) -> str:
        """Return some channels of a value."""
        source, start, stop = part
        whole = self.names[source]
        if (start, stop) == (0, self.shapes[source][0]):
            return whole
        if (whole, part) not in self._pieces:
            lengths = (self.graph.constant([number], np.int64) for number in (start, stop, 1))
            self._pieces[whole, part] = self.graph.add("Slice", [whole, *lengths])
        return self._pieces[whole, part]

    def times(self, x: str, factors: Floats, op: Combine) -> str:
        """Multiply a value by one factor per channel.

        After matrix products, the factor is never a scalar, which onnxruntime would fold into the matrix.
        """
        if bool((factors == 1).all()):
            return x
        if bool((factors == factors[0]).all()) and len(self.shapes[op.name]) == 3:
            return self.graph.add("Mul", [x, self.graph.constant(factors[0])])
        return self.graph.add("Mul", [x, self.graph.constant(self.by_channel(factors, op))])

    def by_channel(self, values: Floats, op: Combine) -> Floats:
        """Return per-channel values in a shape that broadcasts."""
        return values if len(self.shapes[op.name]) == 1 or values.ndim == 3 else values[:, None, None]

    def offset(self, op: Combine, scale: float) -> str:
        """Return the summand per channel or per position. Equal rows and columns of positions are stored only once."""
        values = op.offset.double().numpy() * scale
        if values.ndim < 3:
            return self.graph.constant(self.by_channel(values.astype(np.float32), op))
        rows, row_of = np.unique(values, axis=1, return_inverse=True)
        few, column_of = np.unique(rows, axis=2, return_inverse=True)
        whole = self.graph.constant(few)
        for axis, places in ((1, row_of), (2, column_of)):
            whole = self.graph.add("Gather", [whole, self.graph.constant(places.ravel(), np.int64)], axis=axis)
        return whole

    def quantized(self, op: Requantize, u: str, scale: float) -> str:
        """Quantize values to codes; ``scale`` is the step."""
        kind = np.uint8 if op.low >= 0 else np.int8
        zero = self.graph.constant(op.zero_point, kind)
        codes = self.graph.add("QuantizeLinear", [u, self.graph.constant(scale), zero])
        ends = np.iinfo(kind)
        if (op.low, op.high) == (ends.min, ends.max):
            return codes
        return self.graph.add("Clip", [codes, self.graph.constant(op.low, kind), self.graph.constant(op.high, kind)])

    def limited(self, op: Combine, u: str) -> str:
        """Clip float values to the limits of the operation, and name the result after it."""
        assert isinstance(op, Real)
        if op.low is None and op.high is None:
            return self.graph.add("Identity", [u], op.name)
        if op.low == 0 and op.high is None:
            return self.graph.add("Relu", [u], op.name)
        ends = ["" if end is None else self.graph.constant(end) for end in (op.low, op.high)]
        return self.graph.add("Clip", [u, *ends], op.name)

    def is_of_all(self, op: WindowSum) -> bool:
        """Whether there is a single window that covers all rows and columns."""
        return op.kernel == self.shapes[op.source][1:] and not any(op.padding)


def fits(weight: NDArray[np.int64]) -> bool:
    """Whether weights fit int8."""
    return int(weight.min()) >= -128 and int(weight.max()) <= 127


def halves(weight: NDArray[np.int64], name: str) -> NDArray[np.int64]:
    """Return ``(w - 1) / 2`` for odd weights.

    Raises:
        ValueError: If they are not all odd, so that twice an 8-bit integer plus one cannot represent them.
    """
    if not bool((weight % 2 == 1).all()):
        raise ValueError(
            f"{name}: its weights reach {abs(weight).max()} steps, beyond the 8 bits of engines, and are not all odd: "
            "quantize it to fewer bits, or symmetrically"
        )
    return (weight - 1) // 2


def per_channel(values: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
    """Return one value per output channel in a shape that broadcasts with a layer's weights."""
    return values.reshape(-1, *[1] * (weight.ndim - 1))


def spread_of(op: Convolution) -> dict[str, Any]:
    """Return the ONNX attributes of a convolution."""
    return {
        "strides": op.stride,
        "pads": [*op.padding, *op.padding],
        "dilations": op.dilation,
        "group": op.groups,
        "kernel_shape": tuple(op.weight.shape[2:]),
    }
