"""Lowering: from a quantized network to a program of integers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx, nn

from qra.checks import check_choice
from qra.deploy.bounds import ranges, sums
from qra.deploy.layers import convolve, multiply
from qra.deploy.program import (
    IMAGE,
    LOGITS,
    Convolution,
    Flatten,
    Program,
    Shortcut,
    WindowMax,
    WindowSum,
)
from qra.deploy.symbolic import Builder, Value, number
from qra.quant.layers import ActivationFakeQuantizer, QuantConv2d, QuantLinear, QuantPool
from qra.quant.network import fake_quantizers
from qra.quant.trace import copied, enclosing_module, find_graph

PiecewiseLinear = Literal["int8", "exact"]
"""How piecewise linear weights are deployed: requantized to 8 bits by channel, or as a sum of three convolutions."""

Handler = Callable[["_Lowering", fx.Node, str, Any], Any]


def lower(network: nn.Module, resolution: tuple[int, int], pwlq: PiecewiseLinear = "exact") -> Program:
    """Make the program of a quantized network.

    Args:
        network: Weights and inputs of all layers are quantized, by training or after it. It is not changed.
        resolution: Height and width of the images.
        pwlq: What becomes of piecewise linear weights, for which no engine has a type: a sum of convolutions on their
            grids, which is exact, or weights of 8 bits, one scale for each channel, which are others, but faster.

    Raises:
        ValueError: If something of the network cannot be lowered, by its name.
    """
    check_choice("pwlq", pwlq, get_args(PiecewiseLinear))
    if not fake_quantizers(network):
        raise ValueError("the network is float: quantize it in training (pipeline/qat-at) or after it (callback/pwlq)")
    with torch.no_grad():
        return _Lowering(copied(network).eval().cpu(), resolution, pwlq).run()


class _Lowering:
    """One pass over the graph of a network."""

    def __init__(self, network: nn.Module, resolution: tuple[int, int], pwlq: PiecewiseLinear) -> None:
        self.network, self.pwlq = network, pwlq
        self.graph = find_graph(network)
        self.image_shape = (_image_channels(network), *resolution)
        self.builder = Builder(self.image_shape)
        self.values: dict[fx.Node, Any] = {}

    def run(self) -> Program:
        for node in self.graph.nodes:
            if node.op == "output":
                self._finish(node.args[0])
            else:
                self.values[node] = self._value(node)
        program = Program(tuple(self.builder.ops), self.image_shape)
        _check_sizes(program)
        return program

    def _finish(self, result: Any) -> None:
        value = self.values.get(result) if isinstance(result, fx.Node) else None
        if not isinstance(value, Value):
            raise ValueError("the network has several outputs: it must return logits alone")
        if len(value.shape) != 1:
            raise ValueError(f"the network returns values of shape {value.shape} an image: it must return logits")
        self.builder.real(value, LOGITS)

    def _value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            if self.values:
                raise ValueError("the network takes several inputs: it must take images alone")
            return self.builder.whole(IMAGE).scaled(number(1 / 255))
        if node.op == "get_attr":
            return self._attribute(str(node.target))
        if node.op == "call_module":
            return self._module(node)
        return self._call(node)

    def _attribute(self, name: str) -> Any:
        try:
            found = operator.attrgetter(name)(self.network)
        except AttributeError:
            raise ValueError("the network computes with a tensor made in its forward pass: make it a buffer") from None
        return found.detach().double() if isinstance(found, Tensor) else found

    def _module(self, node: fx.Node) -> Any:
        name, module = str(node.target), self.network.get_submodule(str(node.target))
        for kind in type(module).__mro__:
            if kind in MODULES:
                value = self._arguments(node)[0]
                return MODULES[kind](self, module, self.builder.name(name), value)
        raise ValueError(f"{name} ({type(module).__name__}) has no integer form: {_KNOWN}")

    def _arguments(self, node: fx.Node) -> list[Any]:
        return [self._argument(argument) for argument in node.args]

    def _argument(self, argument: Any) -> Any:
        return fx.map_arg(argument, lambda node: self.values[node])

    def _call(self, node: fx.Node) -> Any:
        call = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        arguments = self._arguments(node)
        keywords = {name: self._argument(value) for name, value in node.kwargs.items()}
        if not any(isinstance(argument, Value) for argument in (*arguments, *keywords.values())):
            return self._constant(node, call, arguments, keywords)
        if call not in CALLS:
            raise ValueError(f"{call} in {enclosing_module(node)} has no integer form: {_KNOWN}")
        try:
            return CALLS[call](self, self.builder.name(node.name), *arguments, **keywords)
        except TypeError:
            raise ValueError(
                f"{call} in {enclosing_module(node)} is called in a way that has no integer form"
            ) from None

    def _constant(self, node: fx.Node, call: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        """A call whose arguments are constants, such as the view of a buffer."""
        if node.op == "call_method":
            return getattr(arguments[0], call)(*arguments[1:], **keywords)
        assert callable(node.target)
        return node.target(*arguments, **keywords)


_KNOWN = (
    "qra.deploy.lower knows convolutions, linear layers, batch normalization, ReLUs, pooling, sums and plain shortcuts"
)


def _check_sizes(program: Program) -> None:
    """Refuse codes and sums that engines have no types for.

    Raises:
        ValueError: With the name of the layer.
    """
    codes = ranges(program)
    for op in program.ops:
        taken = codes[op.source] if isinstance(op, Convolution | WindowSum) else (0, 0)
        if taken[1] > 255 or taken[0] < -128:
            raise ValueError(f"{op.name} takes averages that are not quantized: they are no bytes; quantize its input")
    for name, bound in sums(program):
        if bound >= 2**31:
            raise ValueError(f"{name}: its sums reach {bound}, which no engine's 32 bits hold")


def _image_channels(network: nn.Module) -> int:
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise ValueError("the network has no convolution, which would say how many channels an image has")
    return first.in_channels


# ----- modules -----


def _quantizer(lowering: _Lowering, module: ActivationFakeQuantizer, name: str, value: Value) -> Value:
    try:
        grid = module.grid(torch.float64)
        if not grid.scale.isfinite().all() or grid.scale.numel() != 1 or not float(grid.scale) > 0:
            raise ValueError(f"its scale is {grid.scale.tolist()}: train it, or calibrate the network")
        if grid.table is not None or grid.levels.step != 1:
            raise ValueError("its steps are not even, and engines have no such codes")
        return lowering.builder.requantize(value, grid, name)
    except ValueError as reason:
        raise ValueError(f"{name}: {reason}") from None


def _at_input(lowering: _Lowering, quantizer: ActivationFakeQuantizer | None, name: str, value: Value) -> Value:
    return value if quantizer is None else _quantizer(lowering, quantizer, f"{name}.input_quantizer", value)


def _convolution(lowering: _Lowering, module: QuantConv2d, name: str, value: Value) -> Value:
    x = _at_input(lowering, module.input_quantizer, name, value)
    return convolve(lowering.builder, module, name, x, lowering.pwlq == "exact")


def _linear(lowering: _Lowering, module: QuantLinear, name: str, value: Value) -> Value:
    x = _at_input(lowering, module.input_quantizer, name, value)
    return multiply(lowering.builder, module, name, x, lowering.pwlq == "exact")


def _float_layer(lowering: _Lowering, module: nn.Module, name: str, value: Value) -> Value:
    raise ValueError(f"{name} has float weights: quantize them (8 bits are enough), for engines have no such sums")


def _batch_norm(lowering: _Lowering, module: nn.BatchNorm2d, name: str, value: Value) -> Value:
    if module.running_mean is None or module.running_var is None:
        raise ValueError(f"{name} has no running statistics, so its factors depend on the batch")
    gain = torch.rsqrt(module.running_var.double() + module.eps)
    if module.weight is not None:
        gain = gain * module.weight.double()
    shift = -module.running_mean.double() * gain
    return value.scaled(gain).moved(shift if module.bias is None else shift + module.bias.double())


def _relu_module(lowering: _Lowering, module: nn.Module, name: str, value: Value) -> Value:
    high = 6.0 if isinstance(module, nn.ReLU6) else None
    return lowering.builder.real(value, name, 0.0, high)


def _hardtanh(lowering: _Lowering, module: nn.Hardtanh, name: str, value: Value) -> Value:
    return lowering.builder.real(value, name, float(module.min_val), float(module.max_val))


def _quant_pool(lowering: _Lowering, module: QuantPool, name: str, value: Value) -> Value:
    x = _quantizer(lowering, module.input_quantizer, f"{name}.input_quantizer", value)
    kind = type(module.pool)
    if kind not in MODULES:
        raise ValueError(f"{name} ({kind.__name__}) has no integer form: {_KNOWN}")
    return MODULES[kind](lowering, module.pool, name, x)


def _average(lowering: _Lowering, module: nn.AvgPool2d, name: str, value: Value) -> Value:
    kernel = _pair(module.kernel_size)
    padding = _pair(module.padding)
    if module.ceil_mode or (padding != (0, 0) and not module.count_include_pad):
        raise ValueError(f"{name}: an average whose count of values depends on the place has no integer form")
    return _sum(lowering, name, value, kernel, _pair(module.stride), padding, module.divisor_override)


def _adaptive_average(lowering: _Lowering, module: nn.AdaptiveAvgPool2d, name: str, value: Value) -> Value:
    return _adaptive(lowering, name, value, module.output_size)


def _adaptive(lowering: _Lowering, name: str, value: Value, output_size: Any) -> Value:
    wanted = _pair(output_size)
    size = value.shape[1:]
    if any(n is None or length % n for n, length in zip(wanted, size, strict=True)):
        raise ValueError(f"{name}: {size[0]} x {size[1]} values do not divide into {wanted[0]} x {wanted[1]} windows")
    kernel = (size[0] // wanted[0], size[1] // wanted[1])
    return _sum(lowering, name, value, kernel, kernel)


def _sum(
    lowering: _Lowering,
    name: str,
    value: Value,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int] = (0, 0),
    divisor: int | None = None,
) -> Value:
    builder = lowering.builder
    source, factor = builder.single(value, name)
    if builder.made[source].kind != "codes":
        raise ValueError(f"{name} averages float values, whose sums are not exact: quantize its input")
    if float(value.offset.abs().max()) and padding != (0, 0):
        raise ValueError(f"{name}: an average over a border of zeros of values with a zero point has no integer form")
    shape = _windows(value.shape, kernel, stride, padding)
    made = builder.add(WindowSum(name, source, kernel, stride, padding), "codes", shape)
    count = kernel[0] * kernel[1]
    share = number(count / (divisor or count))
    return made.scaled(factor / (divisor or count)).moved(value.offset * share)


def _max_pool(lowering: _Lowering, module: nn.MaxPool2d, name: str, value: Value) -> Value:
    if module.ceil_mode or module.return_indices:
        raise ValueError(f"{name}: ceil_mode and return_indices have no integer form")
    return _max(lowering, name, value, module.kernel_size, module.stride, module.padding, module.dilation)


def _max(
    lowering: _Lowering,
    name: str,
    value: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
) -> Value:
    kernel, padding = _pair(kernel_size), _pair(padding)
    steps = kernel if stride is None else _pair(stride)
    if _pair(dilation) != (1, 1):
        raise ValueError(f"{name}: a dilated largest value has no integer form")
    source, factor = lowering.builder.single(value, name)
    kind = lowering.builder.made[source].kind
    shape = _windows(value.shape, kernel, steps, padding)
    return (
        lowering.builder.add(WindowMax(name, source, kernel, steps, padding), kind, shape)
        .scaled(factor)
        .moved(value.offset)
    )


def _windows(
    shape: tuple[int, ...], kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> tuple[int, int, int]:
    rows, columns = ((shape[1 + i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in (0, 1))
    return shape[0], rows, columns


def _flatten_module(lowering: _Lowering, module: nn.Flatten, name: str, value: Value) -> Value:
    return _flatten(lowering, name, value, module.start_dim, module.end_dim)


def _same(lowering: _Lowering, module: nn.Module, name: str, value: Value) -> Value:
    return value


MODULES: Mapping[type[nn.Module], Callable[..., Value]] = {
    QuantConv2d: _convolution,
    QuantLinear: _linear,
    QuantPool: _quant_pool,
    ActivationFakeQuantizer: _quantizer,
    nn.Conv2d: _float_layer,
    nn.Linear: _float_layer,
    nn.BatchNorm2d: _batch_norm,
    nn.ReLU: _relu_module,
    nn.ReLU6: _relu_module,
    nn.Hardtanh: _hardtanh,
    nn.AvgPool2d: _average,
    nn.AdaptiveAvgPool2d: _adaptive_average,
    nn.MaxPool2d: _max_pool,
    nn.Flatten: _flatten_module,
    nn.Identity: _same,
    nn.Dropout: _same,
    nn.Dropout2d: _same,
}
"""What is known of modules."""


# ----- functions and methods -----


def _add(lowering: _Lowering, name: str, first: Any, second: Any) -> Value:
    if isinstance(first, Value) and isinstance(second, Value):
        if first.shape != second.shape:
            raise ValueError(
                f"{name}: sums of values of the shapes {first.shape} and {second.shape} have no integer form"
            )
        return first.plus(second)
    value, constant = (first, second) if isinstance(first, Value) else (second, first)
    return value.moved(_channels(name, constant, value))


def _subtract(lowering: _Lowering, name: str, first: Any, second: Any) -> Value:
    minus = second.scaled(number(-1.0)) if isinstance(second, Value) else -torch.as_tensor(second)
    return _add(lowering, name, first, minus)


def _multiply(lowering: _Lowering, name: str, first: Any, second: Any) -> Value:
    if isinstance(first, Value) and isinstance(second, Value):
        raise ValueError(f"{name}: products of two values have no integer form")
    value, constant = (first, second) if isinstance(first, Value) else (second, first)
    return value.scaled(_channels(name, constant, value))


def _divide(lowering: _Lowering, name: str, first: Any, second: Any) -> Value:
    if isinstance(second, Value):
        raise ValueError(f"{name}: a division by a value has no integer form")
    assert isinstance(first, Value)
    return first.scaled(1 / _channels(name, second, first))


def _channels(name: str, constant: Any, value: Value) -> Tensor:
    """A constant as one value, or one for each channel."""
    found = torch.as_tensor(constant).double()
    if found.numel() == 1:
        return found.reshape(())
    if found.numel() != value.shape[0] or found.shape[-2:] != (1, 1):
        raise ValueError(f"{name}: a constant of shape {tuple(found.shape)} is not one value for each channel")
    return found.flatten()


def _relu(lowering: _Lowering, name: str, value: Value, inplace: bool = False) -> Value:
    return lowering.builder.real(value, name, 0.0)


def _flatten(lowering: _Lowering, name: str, value: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    if start_dim != 1 or end_dim not in (-1, len(value.shape)):
        raise ValueError(f"{name}: only all values of an image can be flattened, by start_dim=1")
    if len(value.shape) == 1:
        return value
    builder = lowering.builder
    source, factor = builder.single(value, name)
    made = builder.made[source]
    size = made.shape[0] * made.shape[1] * made.shape[2]
    offset = value.offset.repeat_interleave(size // made.shape[0]) if value.offset.ndim else value.offset
    return builder.add(Flatten(name, source), made.kind, (size,)).scaled(factor).moved(offset)


def _view(lowering: _Lowering, name: str, value: Value, *shape: Any) -> Value:
    lengths = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
    if len(lengths) != 2 or lengths[1] != -1:
        raise ValueError(f"{name}: only all values of an image can be flattened: call torch.flatten(x, 1)")
    return _flatten(lowering, name, value, 1)


def _size(lowering: _Lowering, name: str, value: Value, dim: int | None = None) -> Any:
    sizes = (None, *value.shape)
    return sizes if dim is None else sizes[dim]


def _getattr(lowering: _Lowering, name: str, value: Value, attribute: str) -> Any:
    if attribute != "shape":
        raise ValueError(f"{name}: {attribute} of a value has no integer form")
    return (None, *value.shape)


def _mean(lowering: _Lowering, name: str, value: Value, dim: Any = None, keepdim: bool = False) -> Value:
    if len(value.shape) != 3 or not isinstance(dim, tuple | list) or sorted(d % 4 for d in dim) != [2, 3]:
        raise ValueError(f"{name}: only averages over all rows and columns have an integer form")
    found = _adaptive(lowering, name, value, 1)
    return found if keepdim else _flatten(lowering, lowering.builder.name(f"{name}_flat"), found, 1)


def _getitem(lowering: _Lowering, name: str, value: Any, key: Any) -> Any:
    if not isinstance(value, Value):
        return value[key]
    steps = [part.step or 1 for part in key if isinstance(part, slice)] if isinstance(key, tuple) else []
    bounded = isinstance(key, tuple) and any(not isinstance(k, slice) or k.start or k.stop for k in key)
    if len(steps) != 4 or bounded or steps[:2] != [1, 1]:
        raise ValueError(f"{name}: only every so many rows and columns can be taken, as by x[:, :, ::2, ::2]")
    return _shortcut(lowering, name, value, (steps[2], steps[3]), (0, 0))


def _pad(
    lowering: _Lowering, name: str, x: Value, /, pad: Any, mode: str = "constant", value: float | None = None
) -> Value:
    if mode != "constant" or value not in (None, 0) or any(pad[:4]) or len(pad) != 6:
        raise ValueError(f"{name}: only channels of zeros can be added, as by F.pad(x, (0, 0, 0, 0, 8, 8))")
    return _shortcut(lowering, name, x, (1, 1), (pad[4], pad[5]))


def _shortcut(lowering: _Lowering, name: str, value: Value, step: tuple[int, int], channels: tuple[int, int]) -> Value:
    builder = lowering.builder
    source, factor = builder.single(value, name)
    if float(value.offset.abs().max()):
        raise ValueError(f"{name}: zeros beside values with a zero point have no integer form")
    size = value.shape
    shape = (size[0] + sum(channels), -(-size[1] // step[0]), -(-size[2] // step[1]))
    return builder.add(Shortcut(name, source, step, channels), builder.made[source].kind, shape).scaled(factor)


def _contiguous(lowering: _Lowering, name: str, value: Value, **_: Any) -> Value:
    return value


def _dropout(lowering: _Lowering, name: str, value: Value, *_: Any, **__: Any) -> Value:
    return value  # in eval mode


def _adaptive_call(lowering: _Lowering, name: str, value: Value, output_size: Any) -> Value:
    return _adaptive(lowering, name, value, output_size)


def _average_call(
    lowering: _Lowering, name: str, value: Value, kernel_size: Any, stride: Any = None, padding: Any = 0
) -> Value:
    kernel = _pair(kernel_size)
    return _sum(lowering, name, value, kernel, kernel if stride is None else _pair(stride), _pair(padding))


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


CALLS: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(("add", "add_", "iadd", "__add__", "__iadd__", "__radd__"), _add),
    **dict.fromkeys(("sub", "sub_", "isub"), _subtract),
    **dict.fromkeys(("mul", "mul_", "imul"), _multiply),
    **dict.fromkeys(("div", "div_", "truediv", "itruediv"), _divide),
    **dict.fromkeys(("relu", "relu_"), _relu),
    **dict.fromkeys(("view", "reshape"), _view),
    **dict.fromkeys(("dropout", "dropout2d"), _dropout),
    "contiguous": _contiguous,
    "flatten": _flatten,
    "size": _size,
    "getattr": _getattr,
    "mean": _mean,
    "getitem": _getitem,
    "pad": _pad,
    "adaptive_avg_pool2d": _adaptive_call,
    "avg_pool2d": _average_call,
    "max_pool2d": _max,
}
"""What is known of functions and methods, by name."""
