"""Integer weights in as few bits as a file can hold them in, unfolded to int8 when an engine loads it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

Array = NDArray[np.int64]


class Packed(NamedTuple):
    """Weights in a file.

    Attributes:
        tensor: The initializer.
        table: Values by place, where the initializer holds places; None where it holds the weights.
    """

    tensor: onnx.TensorProto
    table: NDArray[np.int8] | None


def pack(codes: Array, name: str, opset: int, packed: bool) -> Packed:
    """The initializer of weights.

    Args:
        codes: Whole numbers of 8 bits.
        name: Name of the initializer.
        opset: Version of the operators, which says what types there are: 4 bits from 21 on, 2 bits from 25 on.
        packed: Whether fewer than 8 bits are used at all.
    """
    low, high = int(codes.min()), int(codes.max())
    step = 2 if low % 2 and bool((codes % 2 == 1).all()) else 1
    levels = (high - low) // step + 1
    if not packed or levels > 16:
        return Packed(onnx.numpy_helper.from_array(codes.astype(np.int8), name), None)
    bits = 2 if levels <= 4 and opset >= 25 else 4
    signed = step == 1 and low >= -(2 ** (bits - 1)) and high < 2 ** (bits - 1)
    places = codes if signed else (codes - low) // step
    kind = f"{'INT' if signed else 'UINT'}{bits}"
    tensor = onnx.TensorProto(
        name=name, dims=codes.shape, data_type=onnx.TensorProto.DataType.Value(kind), raw_data=_bits(places, bits)
    )
    return Packed(tensor, None if signed else np.arange(low, high + 1, step, dtype=np.int8))


def _bits(places: Array, bits: int) -> bytes:
    """Numbers of few bits, the first in the lowest bits of a byte."""
    each = 8 // bits
    flat = (places.ravel() & (2**bits - 1)).astype(np.uint8)
    rows = np.pad(flat, (0, -len(flat) % each)).reshape(-1, each)
    shifted = rows << np.arange(0, 8, bits, dtype=np.uint8)
    whole: NDArray[np.uint8] = np.bitwise_or.reduce(shifted, axis=1)
    return whole.tobytes()
