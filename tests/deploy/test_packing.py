"""Weights in few bits are the weights."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qra.deploy.packing import pack


def unpacked(codes, opset=25):
    found = pack(codes, "w", opset, True)
    values = onnx.numpy_helper.to_array(found.tensor).astype(np.int64)
    return values if found.table is None else found.table[values].astype(np.int64)


@given(st.integers(-128, 127), st.integers(1, 300), st.sampled_from([1, 2]), st.sampled_from([21, 25]))
@settings(deadline=None)
def test_any_codes_come_out_as_they_went_in(low, count, step, opset):
    codes = np.arange(low, min(low + count * step, 128), step)
    codes = np.concatenate([codes, codes[:1]]).reshape(-1, 1, 1, 1)
    assert (unpacked(codes, opset) == codes).all()


@pytest.mark.parametrize(("codes", "bits"), [(range(-2, 2), 2), (range(5), 4), (range(-8, 8), 4), (range(-8, 9), 8)])
def test_codes_take_as_few_bits_as_tell_them_apart(codes, bits):
    tensor = pack(np.array(codes), "w", 25, True).tensor
    assert onnx.TensorProto.DataType.Name(tensor.data_type).lstrip("U") == f"INT{bits}"
