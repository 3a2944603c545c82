"""The float network of a program: the same layers without any rounding, as the baseline of timings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qra.deploy.form import Floats, per_channel
from qra.deploy.graph import FLOAT
from qra.deploy.ops import Combine, Part, Requantize, WindowSum
from qra.deploy.qdq_form import QDQForm


class FloatForm(QDQForm):
    """Writes a program in float32; see :class:`qra.deploy.form.Form`."""

    def write(self, image: str) -> None:
        super().write(self.graph.add("Cast", [image], to=FLOAT))

    def quantized(self, op: Requantize, u: str, scale: float) -> str:
        return self.graph.add("Relu", [u]) if op.low == 0 else u

    def counted_in(self, op: Combine) -> float:
        return op.scale if isinstance(op, Requantize) else 1.0

    def average(self, x: str, op: WindowSum) -> str:
        pads = [*op.padding, *op.padding]
        return self.graph.add(
            "AveragePool", [x], op.name, kernel_shape=op.kernel, strides=op.stride, pads=pads, count_include_pad=1
        )

    def type_of(self, name: str) -> type[np.generic]:
        return np.float32

    def _weights(self, weight: NDArray[np.int64], scales: Floats, part: Part) -> str:
        return self.graph.constant(weight * per_channel(scales, weight))
