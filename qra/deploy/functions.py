"""Lowering of functions and methods: what each call becomes in an integer program."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qra.deploy.modules import adaptive_average, average, flatten, max_pool
from qra.deploy.ops import Shortcut
from qra.deploy.symbolic import OTHER_SIZE, Builder, Value, number


def _add(builder: Builder, name: str, first: Any, second: Any) -> Value:
    if isinstance(first, Value) and isinstance(second, Value):
        if first.shape != second.shape:
            raise ValueError(
                f"{name}: adding values of shapes {first.shape} and {second.shape} is not supported in integer form"
            )
        return first.plus(second)
    value, constant = (first, second) if isinstance(first, Value) else (second, first)
    return value.moved(_channels(name, constant, value))


def _subtract(builder: Builder, name: str, first: Any, second: Any) -> Value:
    minus = second.scaled(number(-1.0)) if isinstance(second, Value) else -torch.as_tensor(second)
    return _add(builder, name, first, minus)


def _multiply(builder: Builder, name: str, first: Any, second: Any) -> Value:
    if isinstance(first, Value) and isinstance(second, Value):
        raise ValueError(f"{name}: multiplying two values is not supported in integer form")
    value, constant = (first, second) if isinstance(first, Value) else (second, first)
    return value.scaled(_channels(name, constant, value))


def _divide(builder: Builder, name: str, first: Any, second: Any) -> Value:
    if isinstance(second, Value):
        raise ValueError(f"{name}: dividing by a value is not supported in integer form")
    assert isinstance(first, Value)
    return first.scaled(1 / _channels(name, second, first))


def _channels(name: str, constant: Any, value: Value) -> Tensor:
    """Return a constant as one value, or one per channel."""
    found = torch.as_tensor(constant).double()
    if found.numel() == 1:
        return found.reshape(())
    if found.numel() != value.shape[0] or found.shape[-2:] != (1, 1):
        raise ValueError(f"{name}: a constant of shape {tuple(found.shape)} must have one value per channel")
    return found.flatten()


def _relu(builder: Builder, name: str, value: Value, inplace: bool = False) -> Value:
    return builder.real(value, name, 0.0)


def _relu6(builder: Builder, name: str, value: Value, inplace: bool = False) -> Value:
    return builder.real(value, name, 0.0, 6.0)


def _clamp(builder: Builder, name: str, value: Value, min: float | None = None, max: float | None = None) -> Value:
    low, high = (None if end is None else float(end) for end in (min, max))
    return builder.real(value, name, low, high)


def _hardtanh(
    builder: Builder, name: str, value: Value, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Value:
    return builder.real(value, name, float(min_val), float(max_val))


def _view(builder: Builder, name: str, value: Value, *shape: Any) -> Value:
    lengths = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
    size = math.prod(value.shape)
    if len(lengths) != 2 or tuple(lengths) not in ((None, -1), (None, size), (-1, size)):
        raise ValueError(
            f"{name} {tuple(lengths)}: only all {size} values of an image can be flattened: call torch.flatten(x, 1), "
            f"or {OTHER_SIZE}"
        )
    return flatten(builder, name, value, 1)


def _size(builder: Builder, name: str, value: Value, dim: int | None = None) -> Any:
    sizes = (None, *value.shape)
    return sizes if dim is None else sizes[dim]


def _getattr(builder: Builder, name: str, value: Value, attribute: str) -> Any:
    if attribute != "shape":
        raise ValueError(f"{name}: {attribute} of a value is not supported in integer form")
    return (None, *value.shape)


def _mean(builder: Builder, name: str, value: Value, dim: Any = None, keepdim: bool = False) -> Value:
    if len(value.shape) != 3 or not isinstance(dim, tuple | list) or sorted(d % 4 for d in dim) != [2, 3]:
        raise ValueError(f"{name}: only averages over all rows and columns are supported in integer form")
    found = adaptive_average(builder, name, value, 1)
    return found if keepdim else flatten(builder, builder.name(f"{name}_flat"), found, 1)


def _getitem(builder: Builder, name: str, value: Any, key: Any) -> Any:
    if not isinstance(value, Value):
        return value[key]
    steps = [part.step or 1 for part in key if isinstance(part, slice)] if isinstance(key, tuple) else []
    bounded = isinstance(key, tuple) and any(not isinstance(k, slice) or k.start or k.stop for k in key)
    if len(steps) != 4 or bounded or steps[:2] != [1, 1]:
        raise ValueError(f"{name}: only strided rows and columns can be selected, such as x[:, :, ::2, ::2]")
    return _shortcut(builder, name, value, (steps[2], steps[3]), (0, 0))


def _pad(
    builder: Builder, name: str, x: Value, /, pad: Any, mode: str = "constant", value: float | None = None
) -> Value:
    if mode != "constant" or value not in (None, 0) or any(pad[:4]) or len(pad) != 6 or min(pad) < 0:
        raise ValueError(f"{name}: only channels of zeros can be padded, such as by F.pad(x, (0, 0, 0, 0, 8, 8))")
    return _shortcut(builder, name, x, (1, 1), (pad[4], pad[5]))


def _shortcut(builder: Builder, name: str, value: Value, step: tuple[int, int], channels: tuple[int, int]) -> Value:
    value = builder.by_channel(value, name)
    if any(channels) and float(value.offset.abs().max()):  # with a zero point, zero is not the code 0
        value = builder.real(value, builder.name(f"{name}.sum"))
    source, kind = builder.take(value)
    factor = value.factors[0]
    factor = F.pad(factor, channels, value=1.0) if factor.ndim else factor
    size = value.shape
    shape = (size[0] + sum(channels), -(-size[1] // step[0]), -(-size[2] // step[1]))
    made = builder.add(Shortcut(name, source, step, channels), kind, shape)
    return made.scaled(factor).moved(value.offset)


def _contiguous(builder: Builder, name: str, value: Value, **_: Any) -> Value:
    return value


def _dropout(
    builder: Builder, name: str, value: Value, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Value:
    if training:
        raise ValueError(f"{name} drops values in eval mode too: call F.dropout(x, training=self.training)")
    return value


def _average_call(builder: Builder, name: str, value: Value, *arguments: Any, **keywords: Any) -> Value:
    return average(builder, nn.AvgPool2d(*arguments, **keywords), name, value)


def _max_call(
    builder: Builder,
    name: str,
    value: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    module = nn.MaxPool2d(kernel_size, stride, padding, dilation, return_indices, ceil_mode)
    return max_pool(builder, module, name, value)


CALLS: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(("add", "add_", "iadd", "__add__", "__iadd__", "__radd__"), _add),
    **dict.fromkeys(("sub", "sub_", "isub"), _subtract),
    **dict.fromkeys(("mul", "mul_", "imul"), _multiply),
    **dict.fromkeys(("div", "div_", "truediv", "itruediv"), _divide),
    **dict.fromkeys(("relu", "relu_"), _relu),
    **dict.fromkeys(("clamp", "clamp_"), _clamp),
    **dict.fromkeys(("view", "reshape"), _view),
    **dict.fromkeys(("dropout", "dropout2d"), _dropout),
    "contiguous": _contiguous,
    "flatten": flatten,
    "size": _size,
    "getattr": _getattr,
    "mean": _mean,
    "getitem": _getitem,
    "pad": _pad,
    "adaptive_avg_pool2d": adaptive_average,
    "avg_pool2d": _average_call,
    "max_pool2d": _max_call,
    "relu6": _relu6,
    "hardtanh": _hardtanh,
}
"""Lowering functions of the supported functions and methods, by name."""
