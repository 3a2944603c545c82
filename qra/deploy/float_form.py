"""The float network of a program: the same layers without any rounding, to be timed against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qra.deploy.form import Floats
from qra.deploy.ops import Part, Requantize
from qra.deploy.qdq_form import QDQForm


class FloatForm(QDQForm):
    """Writes a program in float32; see :class:`qra.deploy.form.Form`."""

    def quantized(self, op: Requantize, u: str, scale: float) -> str:
        return self.graph.add("Relu", [u]) if op.low == 0 else u

    def type_of(self, name: str) -> type[np.generic]:
        return np.float32

    def _weights(self, weight: NDArray[np.int64], scales: Floats, part: Part) -> str:
        steps = scales.reshape(-1, *[1] * (weight.ndim - 1))
        return self.graph.constant(weight * steps)
