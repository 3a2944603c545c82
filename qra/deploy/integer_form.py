"""The integer form of a program: integer convolutions, with single float operations between them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qra.deploy.form import Form, fits, halves, spread_of
from qra.deploy.graph import DOUBLE, FLOAT
from qra.deploy.ops import EXACT, Combine, Convolution, Linear, Requantize, WindowSum


class IntegerForm(Form):
    """Writes a program in integers; see :class:`qra.deploy.form.Form`."""

    def convolution(self, op: Convolution) -> None:
        weight = op.weight.numpy().astype(np.int64)
        spread = spread_of(op)
        if fits(weight):
            inputs = [self.names[op.source], self.graph.weights(weight, op.name)]
            self.names[op.name] = self.graph.add("ConvInteger", inputs, op.name, **spread)
            return
        stacked = _with_ones(halves(weight, op.name), op.groups)
        made = self.graph.add("ConvInteger", [self.names[op.source], self.graph.weights(stacked, op.name)], **spread)
        self.names[op.name] = self._doubled(made, op, len(weight) // op.groups)

    def _doubled(self, made: str, op: Convolution, count: int) -> str:
        """Return ``2 a + b`` for each group, where b is its last channel: from halves of odd weights, and from ones."""
        lengths = self.graph.constant([count, 1] * op.groups, np.int64)
        first = self.graph.add("Split", [made, lengths], outputs=2 * op.groups, axis=1)
        pieces = [first, *(f"{first}_{number}" for number in range(1, 2 * op.groups))]
        two = self.graph.constant(2, np.int32)
        whole = [
            self.graph.add("Add", [self.graph.add("Mul", [half, two]), ones])
            for half, ones in zip(pieces[::2], pieces[1::2], strict=True)
        ]
        return self.graph.add("Concat", whole, op.name, axis=1) if len(whole) > 1 else whole[0]

    def linear(self, op: Linear) -> None:
        """Write a linear layer, in float32 if that is exact, else in double precision."""
        kind = FLOAT if self.bounds[op.name] < EXACT else DOUBLE
        weight = op.weight.numpy().astype(np.int64)
        if fits(weight):
            matrix = self.graph.weights(weight.T.copy(), op.name)
        else:
            matrix = self.graph.constant(weight.T, np.int16)
        x = self.graph.add("Cast", [self.names[op.source]], to=kind)
        self.names[op.name] = self.graph.add("MatMul", [x, self.graph.add("Cast", [matrix], to=kind)], op.name)

    def window_sum(self, op: WindowSum) -> None:
        """Write a sum over windows: in float32 if one window covers all, else as an integer convolution with ones.

        The float32 sum is exact below 2^24. Small sums are codes again, which layers can take. Float values are summed
        in double precision.
        """
        x = self.names[op.source]
        if op.source not in self.codes:
            channels, rows, columns = self.shapes[op.name]
            lengths = self.graph.constant([0, channels, rows, op.kernel[0], columns, op.kernel[1]], np.int64)
            exact = self.graph.add("Cast", [self.graph.add("Reshape", [x, lengths])], to=DOUBLE)
            made = self.graph.add("ReduceSum", [exact, self.graph.constant([3, 5], np.int64)], keepdims=0)
        elif self.is_of_all(op):
            inputs = [self.graph.add("Cast", [x], to=FLOAT), self.graph.constant([2, 3], np.int64)]
            made = self.graph.add("ReduceSum", inputs, keepdims=1)
        else:
            channels = self.shapes[op.source][0]
            ones = self.graph.constant(np.ones((channels, 1, *op.kernel)), np.int8)
            pads = [*op.padding, *op.padding]
            made = self.graph.add("ConvInteger", [x, ones], strides=op.stride, pads=pads, group=channels)
        self.names[op.name] = self.graph.add("Cast", [made], op.name, to=self.tensor_type_of(op.name))

    def combine(self, op: Combine) -> None:
        u = self._term(op, 0)
        if bool(op.offset.any()):
            u = self.graph.add("Add", [u, self.offset(op, 1.0)])
        for number in range(1, len(op.parts)):
            u = self.graph.add("Add", [u, self._term(op, number)])
        if isinstance(op, Requantize):
            self.names[op.name] = self.quantized(op, u, 1.0)
        else:
            self.names[op.name] = self.limited(op, u)

    def _term(self, op: Combine, number: int) -> str:
        """Return a part of a sum, times its factors, in float32."""
        part = self.graph.add("Cast", [self.channels(op.parts[number])], to=FLOAT)
        return self.times(part, op.factors[number].numpy(), op)


def _with_ones(half: NDArray[np.int64], groups: int) -> NDArray[np.int64]:
    """Append a channel of ones to each group."""
    grouped = half.reshape(groups, -1, *half.shape[1:])
    ones = np.ones((groups, 1, *half.shape[1:]), np.int64)
    return np.concatenate([grouped, ones], axis=1).reshape(-1, *half.shape[1:])
