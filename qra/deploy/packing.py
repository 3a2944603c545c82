"""Storage of integer weights with as few bits as a file allows. Engines unpack them to int8 when they load the file."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

Array = NDArray[np.int64]


class Packed(NamedTuple):
    """Weights as stored in a file.

    Attributes:
        tensor: The initializer.
        table: Values by index, if the initializer holds indices; None if it holds the weights.
    """

    tensor: onnx.TensorProto
    table: NDArray[np.int8] | None


def pack(codes: Array, name: str, opset: int, packed: bool) -> Packed:
    """Return the initializer for weights.

    Args:
        codes: 8-bit integers.
        name: Name of the initializer.
        opset: Version of the operators, which determines the available types: 4 bits from 21 on, 2 bits from 25 on.
        packed: Whether fewer than 8 bits may be used.
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
    """Pack small integers into bytes, the first in the lowest bits."""
    each = 8 // bits
    flat = (places.ravel() & (2**bits - 1)).astype(np.uint8)
    rows = np.pad(flat, (0, -len(flat) % each)).reshape(-1, each)
    shifted = rows << np.arange(0, 8, bits, dtype=np.uint8)
    whole: NDArray[np.uint8] = np.bitwise_or.reduce(shifted, axis=1)
    return whole.tobytes()
