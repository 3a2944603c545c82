"""The form of a program from which engines build fast kernels: float layers with quantize and dequantize nodes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qra.deploy.form import Floats, Form, fits, halves, per_channel, spread_of
from qra.deploy.graph import FLOAT, Graph
from qra.deploy.ops import IMAGE, Combine, Convolution, Linear, Op, Part, Requantize, WindowSum
from qra.deploy.program import Program

_TINY = 1e-30
"""Replaces scales of 0, because engines require scales above 0."""

Weight = NDArray[np.int64]


class QDQForm(Form):
    """Writes a program in the units of the network; see :class:`qra.deploy.form.Form`.

    ``names`` maps to codes where there are any. Layers are written where their sums are used, because only there the
    value of one step is known.
    """

    def __init__(self, graph: Graph, program: Program) -> None:
        super().__init__(graph, program)
        self._ops: dict[str, Op] = {op.name: op for op in program.ops}
        self._reals: dict[str, str] = {}

    def convolution(self, op: Convolution) -> None:
        """Do nothing; the layer is written where its sums are used."""

    def linear(self, op: Linear) -> None:
        """Do nothing; the layer is written where its sums are used."""

    def window_sum(self, op: WindowSum) -> None:
        """Write a sum over windows as an average."""
        x = self._real(op.source)
        made = self.graph.add("GlobalAveragePool", [x], op.name) if self.is_of_all(op) else self.average(x, op)
        self.names[op.name] = self._reals[op.name] = made

    def average(self, x: str, op: WindowSum) -> str:
        """Write the average over windows as a convolution, because OpenVINO rounds AveragePool of codes to codes."""
        channels = self.shapes[op.source][0]
        shares = np.full((channels, 1, *op.kernel), 1 / (op.kernel[0] * op.kernel[1]))
        pads = [*op.padding, *op.padding]
        inputs = [x, self.graph.constant(shares)]
        return self.graph.add("Conv", inputs, op.name, strides=op.stride, pads=pads, group=channels)

    def combine(self, op: Combine) -> None:
        scale = self.counted_in(op)
        factors = op.factors.double().numpy() * scale
        offset = op.offset.double().numpy() * scale
        bias = offset.astype(np.float32) if offset.ndim == 1 and offset.any() else None
        terms, layers = [], set()
        for number, part in enumerate(op.parts):
            layer = self._ops.get(part.source)
            if isinstance(layer, Convolution) and part.stop - part.start < len(layer.weight) and layer.groups > 1:
                if part.source not in layers:
                    own = [place for place, other in enumerate(op.parts) if other.source == part.source]
                    terms.append(self._by_channel(op, layer, own, factors))
                layers.add(part.source)
            elif isinstance(layer, Convolution | Linear):
                given = factors[number] / self._unit(layer.source)
                terms.append(self._layer(op, layer, part, given.astype(np.float32), None if terms else bias))
                bias = bias if len(terms) > 1 else None
            else:
                given = (factors[number] / self._unit(part.source)).astype(np.float32)
                same = bool(np.isclose(given, 1, rtol=1e-6).all())
                whole = self._real(part.source)
                terms.append(whole if same else self.times(self._channels(part, whole), given, op))
        u = terms[0]
        for other in terms[1:]:
            u = self.graph.add("Add", [u, other])
        if bias is not None or offset.ndim == 3:
            u = self.graph.add("Add", [u, self.offset(op, scale)])
        self.names[op.name] = self.quantized(op, u, scale) if isinstance(op, Requantize) else self.limited(op, u)

    def counted_in(self, op: Combine) -> float:
        """Return the unit of values before rounding: for image bytes, which meet ties, a step, as in the program."""
        are_bytes = all(name in self.codes and self._unit(name) == 1 for name in op.sources)
        return op.scale if isinstance(op, Requantize) and not are_bytes else 1.0

    def _channels(self, part: Part, whole: str) -> str:
        assert (part.start, part.stop) == (0, self.shapes[part.source][0])
        return whole

    def _unit(self, name: str) -> float:
        """Return the value of one step in the floats of the graph."""
        op = self._ops.get(name)
        if isinstance(op, Requantize):
            return op.scale
        if isinstance(op, WindowSum):
            return self._unit(op.source) / (op.kernel[0] * op.kernel[1])
        if op is None or isinstance(op, Combine):
            return 1.0
        return self._unit(op.sources[0])

    def _real(self, name: str) -> str:
        """Return a value as float, in the units of the network (for the image, in bytes)."""
        if name not in self._reals:
            made, is_code = self.names[name], self.type_of(name) is not np.float32
            if name == IMAGE:
                made = self.graph.add("Cast", [made], to=FLOAT)
            elif is_code and not self._is_float(name):
                scale = self.graph.constant(self._unit(name))
                made = self.graph.add("DequantizeLinear", [made, scale, self.zero(name)])
            self._reals[name] = made
        return self._reals[name]

    def _is_float(self, name: str) -> bool:
        """Whether a value is float in the graph although it is an integer in the program, as averages are."""
        op = self._ops.get(name)
        if isinstance(op, WindowSum):
            return True
        return op is not None and not isinstance(op, Combine) and self._is_float(op.sources[0])

    def type_of(self, name: str) -> type[np.generic]:
        return np.float32 if self._is_float(name) else super().type_of(name)

    def _layer(self, op: Combine, layer: Convolution | Linear, part: Part, scales: Floats, bias: Floats | None) -> str:
        """Write a layer whose integer weights are multiplied by one scale per channel."""
        weight = layer.weight.numpy().astype(np.int64)[part.start : part.stop]
        steps, later = _split(weight, scales)
        inputs = [self._real(layer.source), self._weights(weight, steps, part)]
        if bias is not None and later is None:
            inputs.append(self.graph.constant(bias))
        if isinstance(layer, Linear):
            made = self.graph.add("Gemm", inputs, transB=1)
        else:
            made = self.graph.add("Conv", inputs, **spread_of(layer))
        if later is None:
            return made
        made = self.times(made, later, op)
        return made if bias is None else self.graph.add("Add", [made, self.graph.constant(self.by_channel(bias, op))])

    def _weights(self, weight: Weight, scales: Floats, part: Part) -> str:
        """Write weights as float, dequantized from 8 bits. A negative scale flips the signs of the codes."""
        name = f"{part.source}.{part.start}"
        codes, steps = weight * per_channel(np.where(scales < 0, -1, 1), weight), np.abs(scales)
        steps = np.maximum(steps, np.float32(_TINY)).astype(np.float32)
        if fits(codes):
            return self._dequantized(codes, steps, name)
        made = self._dequantized(halves(codes, name), 2 * steps, name)
        return self.graph.add("Add", [made, self.graph.constant(per_channel(steps, weight))])

    def _dequantized(self, codes: Weight, steps: Floats, name: str) -> str:
        zeros = self.graph.constant(np.zeros(len(steps)), np.int8)
        inputs = [self.graph.weights(codes, name), self.graph.constant(steps), zeros]
        return self.graph.add("DequantizeLinear", inputs, axis=0)

    def _by_channel(self, op: Combine, layer: Convolution, places: list[int], factors: NDArray[np.float64]) -> str:
        """Write a float convolution of codes with per-channel scales; for images that is a small part of the work."""
        weight = layer.weight.double().numpy()
        dense = np.zeros((factors.shape[1], layer.groups, *weight.shape[2:]))
        for number in places:
            _, start, stop = op.parts[number]
            channel = start // (len(weight) // layer.groups)
            dense[:, channel] += weight[start:stop, 0] * factors[number][:, None, None]
        inputs = [self._real(layer.source), self.graph.constant(dense / self._unit(layer.source))]
        return self.graph.add("Conv", inputs, **{**spread_of(layer), "group": 1})


def _split(weight: Weight, scales: Floats) -> tuple[Floats, Floats | None]:
    """Return scales for the weights, and factors for the sums where the weights cannot include the scales.

    That is the case for a single channel that stands for many, and for codes down to -128, whose signs cannot be
    flipped.
    """
    if len(weight) < len(scales):
        return np.ones(1, np.float32), scales
    signs = np.where(scales < 0, -1, 1)
    if fits(weight) and not fits(weight * per_channel(signs, weight)):
        return np.abs(scales), signs.astype(np.float32)
    return scales, None
