"""Lowering of modules: what each becomes in an integer program."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from qra.deploy.bounds import places
from qra.deploy.layers import FLOAT_WEIGHTS, convolve, multiply
from qra.deploy.ops import Flatten, WindowMax, WindowSum
from qra.deploy.symbolic import Builder, Value, number
from qra.quant.layers import ActivationFakeQuantizer, QuantConv2d, QuantLinear, QuantPool

KNOWN = "supported are convolutions, linear layers, batch normalization, ReLUs, pooling, sums and plain shortcuts"


def _quantizer(builder: Builder, module: ActivationFakeQuantizer, name: str, value: Value) -> Value:
    try:
        grid = module.grid(torch.float64)
        if not grid.scale.isfinite().all() or grid.scale.numel() != 1 or not float(grid.scale) > 0:
            raise ValueError(f"its scale is {grid.scale.tolist()}: train it, or calibrate the network")
        if grid.table is not None or grid.levels.step != 1:
            raise ValueError("its steps are not uniform, which engines do not support")
        if float(grid.zero_point) not in grid.levels:
            raise ValueError(f"its zero point, {float(grid.zero_point):g}, is not one of its codes")
    except ValueError as reason:
        raise ValueError(f"{name}: {reason}") from None
    return builder.requantize(value, grid, name)


def _quant_layer(builder: Builder, module: QuantConv2d | QuantLinear, name: str, value: Value) -> Value:
    if module.input_quantizer is not None:
        value = _quantizer(builder, module.input_quantizer, f"{name}.input_quantizer", value)
    if isinstance(module, QuantConv2d):
        return convolve(builder, module, name, value)
    return multiply(builder, module, name, value)


def _float_layer(builder: Builder, module: nn.Module, name: str, value: Value) -> Value:
    raise ValueError(f"{name} {FLOAT_WEIGHTS}")


def _batch_norm(builder: Builder, module: nn.BatchNorm1d | nn.BatchNorm2d, name: str, value: Value) -> Value:
    if module.running_mean is None or module.running_var is None:
        raise ValueError(f"{name} has no running statistics, so its factors depend on the batch")
    gain = torch.rsqrt(module.running_var.double() + module.eps)
    if module.weight is not None:
        gain = gain * module.weight.double()
    shift = -module.running_mean.double() * gain
    return value.scaled(gain).moved(shift if module.bias is None else shift + module.bias.double())


def _relu(builder: Builder, module: nn.ReLU, name: str, value: Value) -> Value:
    return builder.real(value, name, 0.0)


def _hardtanh(builder: Builder, module: nn.Hardtanh, name: str, value: Value) -> Value:
    return builder.real(value, name, float(module.min_val), float(module.max_val))


def _quant_pool(builder: Builder, module: QuantPool, name: str, value: Value) -> Value:
    x = _quantizer(builder, module.input_quantizer, f"{name}.input_quantizer", value)
    kind = type(module.pool)
    if kind not in MODULES:
        raise ValueError(f"{name} ({kind.__name__}) has no integer form: {KNOWN}")
    return MODULES[kind](builder, module.pool, name, x)


def average(builder: Builder, module: nn.AvgPool2d, name: str, value: Value) -> Value:
    """Lower an average over windows of one size."""
    kernel = pair(module.kernel_size)
    padding = pair(module.padding)
    if module.ceil_mode or (padding != (0, 0) and not module.count_include_pad):
        raise ValueError(f"{name}: averages over a varying number of values are not supported in integer form")
    return window_sum(builder, name, value, kernel, pair(module.stride), padding, module.divisor_override)


def _adaptive_average(builder: Builder, module: nn.AdaptiveAvgPool2d, name: str, value: Value) -> Value:
    return adaptive_average(builder, name, value, module.output_size)


def adaptive_average(builder: Builder, name: str, value: Value, output_size: Any) -> Value:
    """Lower an average to a given number of rows and columns."""
    wanted = pair(output_size)
    size = value.shape[1:]
    if any(n is None or length % n for n, length in zip(wanted, size, strict=True)):
        raise ValueError(f"{name}: {size[0]} x {size[1]} values do not divide into {wanted[0]} x {wanted[1]} windows")
    kernel = (size[0] // wanted[0], size[1] // wanted[1])
    return window_sum(builder, name, value, kernel, kernel)


def window_sum(
    builder: Builder,
    name: str,
    value: Value,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int] = (0, 0),
    divisor: int | None = None,
) -> Value:
    """Lower an average to a sum; the division is left to the operations that use it."""
    value = builder.by_channel(value, name)
    source, kind = builder.take(value)
    op = WindowSum(name, source, kernel, stride, padding)
    if kind != "codes" and not op.lie_side_by_side(value.shape):
        raise ValueError(
            f"{name} averages float values over overlapping or separated windows: quantize its input, as PACT "
            "and LSQ do instead of the ReLU before it, and CalibratedUniform at modules such as nn.AvgPool2d"
        )
    if float(value.offset.abs().max()) and padding != (0, 0):
        raise ValueError(
            f"{name}: averaging padding zeros is not supported in integer form for values with a zero point"
        )
    shape = (value.shape[0], *places(value.shape, kernel, stride, padding))
    made = builder.add(op, kind, shape)
    count = kernel[0] * kernel[1]
    share = number(count / (divisor or count))
    return made.scaled(value.factors[0] / (divisor or count)).moved(value.offset * share)


def max_pool(builder: Builder, module: nn.MaxPool2d, name: str, value: Value) -> Value:
    """Lower a maximum over windows."""
    if module.ceil_mode or module.return_indices or pair(module.dilation) != (1, 1):
        raise ValueError(f"{name}: ceil_mode, return_indices and dilation have no integer form")
    kernel, steps, padding = pair(module.kernel_size), pair(module.stride), pair(module.padding)
    value = builder.by_channel(value, name, rising=True)
    source, kind = builder.take(value)
    shape = (value.shape[0], *places(value.shape, kernel, steps, padding))
    made = builder.add(WindowMax(name, source, kernel, steps, padding), kind, shape)
    return made.scaled(value.factors[0]).moved(value.offset)


def flatten(builder: Builder, name: str, value: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    """Lower the flattening of each image."""
    if start_dim != 1 or end_dim not in (-1, len(value.shape)):
        raise ValueError(f"{name}: only all values of an image can be flattened, by start_dim=1")
    if len(value.shape) == 1:
        return value
    value = builder.by_channel(value, name)
    source, kind = builder.take(value)
    size, places_of_one = math.prod(value.shape), math.prod(value.shape[1:])
    factor, offset = (
        numbers.repeat_interleave(places_of_one) if numbers.ndim else numbers
        for numbers in (value.factors[0], value.offset)
    )
    return builder.add(Flatten(name, source), kind, (size,)).scaled(factor).moved(offset)


def _flatten_module(builder: Builder, module: nn.Flatten, name: str, value: Value) -> Value:
    return flatten(builder, name, value, module.start_dim, module.end_dim)


def _same(builder: Builder, module: nn.Module, name: str, value: Value) -> Value:
    return value


def pair(value: Any) -> Any:
    """Return rows and columns, where one number may stand for both."""
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


MODULES: Mapping[type[nn.Module], Callable[..., Value]] = {
    QuantConv2d: _quant_layer,
    QuantLinear: _quant_layer,
    QuantPool: _quant_pool,
    ActivationFakeQuantizer: _quantizer,
    nn.Conv2d: _float_layer,
    nn.Linear: _float_layer,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.ReLU: _relu,
    nn.Hardtanh: _hardtanh,  # and so nn.ReLU6
    nn.AvgPool2d: average,
    nn.AdaptiveAvgPool2d: _adaptive_average,
    nn.MaxPool2d: max_pool,
    nn.Flatten: _flatten_module,
    nn.Identity: _same,
    nn.Dropout: _same,
    nn.Dropout2d: _same,
}
"""Lowering functions of the supported modules, by class."""
