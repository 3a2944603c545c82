"""Lowering of a quantized network to an integer program."""

from __future__ import annotations

import math
import operator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx, nn

from qra.checks import check_choice
from qra.deploy.bounds import are_bytes, ranges, sums
from qra.deploy.functions import CALLS
from qra.deploy.modules import KNOWN, MODULES
from qra.deploy.ops import EXACT, IMAGE, LOGITS, Convolution, Requantize, WindowSum
from qra.deploy.program import Program
from qra.deploy.symbolic import Builder, Value, number
from qra.quant.network import fake_quantizers
from qra.quant.trace import copied, enclosing_module, find_graph

PiecewiseLinear = Literal["int8", "exact"]
"""How piecewise linear weights are deployed: requantized to 8 bits per channel, or as a sum of three convolutions."""


def lower(network: nn.Module, resolution: tuple[int, int], pwlq: PiecewiseLinear = "exact") -> Program:
    """Lower a quantized network to a program.

    Args:
        network: A network in which the weights and inputs of all layers are quantized, in training or after it. It is
            not changed.
        resolution: Height and width of the images, in pixels.
        pwlq: How to deploy piecewise linear weights, for which engines have no type: ``exact``, a sum of convolutions
            on their grids, or ``int8``, 8-bit weights with one scale per channel, which differ but are faster.

    Raises:
        ValueError: If a part of the network cannot be lowered. The message names it.
    """
    check_choice("pwlq", pwlq, get_args(PiecewiseLinear))
    if not fake_quantizers(network):
        raise ValueError("the network is float: quantize it in training (pipeline/qat-at) or after it (callback/pwlq)")
    if network._forward_hooks or network._forward_pre_hooks:
        raise ValueError("the network has hooks of its own, which tracing does not see: remove them")
    if min(resolution) < 1:
        raise ValueError(f"resolution is {tuple(resolution)}: give rows and columns")
    with torch.no_grad():
        return _Lowering(copied(network).eval().cpu(), resolution, pwlq).run()


class _Lowering:
    """One pass over the graph of a network."""

    def __init__(self, network: nn.Module, resolution: tuple[int, int], pwlq: PiecewiseLinear) -> None:
        self.network = network
        self.graph = find_graph(network)
        self.image_shape = (_image_channels(network, self.graph, resolution), *resolution)
        self.builder = Builder(self.image_shape, pwlq == "exact")
        self.values: dict[fx.Node, Any] = {}

    def run(self) -> Program:
        for node in self.graph.nodes:
            if node.op == "output":
                self._finish(node.args[0])
            else:
                value = self._value(node)
                self.values[node] = self._once(node, value) if isinstance(value, Value) else value
        program = Program(tuple(self.builder.ops), self.image_shape)
        _check_sizes(program)
        return program

    def _finish(self, result: Any) -> None:
        value = self.values.get(result) if isinstance(result, fx.Node) else None
        if not isinstance(value, Value):
            raise ValueError("the network has several outputs: it must return only logits")
        if len(value.shape) != 1:
            raise ValueError(f"the network returns values of shape {value.shape} per image: it must return logits")
        self.builder.real(value, LOGITS)

    def _once(self, node: fx.Node, value: Value) -> Value:
        """Make a sum with several uses a float value; otherwise each use, and engines, would compute it again."""
        is_sum = len(value.parts) > 1 or self.builder.take(value)[1] == "sums"
        if len(node.users) < 2 or not is_sum:
            return value
        name = str(node.target) if node.op == "call_module" else node.name
        return self.builder.real(value, self.builder.name(f"{name}.sum"))

    def _value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            if self.values:
                raise ValueError("the network takes several inputs: it must take only images")
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
            raise ValueError("the network uses a tensor created in its forward pass: make it a buffer") from None
        return found.detach().double() if isinstance(found, Tensor) else found

    def _module(self, node: fx.Node) -> Any:
        name, module = str(node.target), self.network.get_submodule(str(node.target))
        for kind in type(module).__mro__:
            if kind in MODULES:
                value = self._arguments(node)[0]
                return MODULES[kind](self.builder, module, self.builder.name(name), value)
        raise ValueError(f"{name} ({type(module).__name__}) has no integer form: {KNOWN}")

    def _arguments(self, node: fx.Node) -> list[Any]:
        return [self._argument(argument) for argument in node.args]

    def _argument(self, argument: Any) -> Any:
        return fx.map_arg(argument, lambda node: self.values[node])

    def _call(self, node: fx.Node) -> Any:
        call = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        arguments = self._arguments(node)
        keywords = {name: self._argument(value) for name, value in node.kwargs.items()}
        takes_values = any(isinstance(self.values[each], Value) for each in node.all_input_nodes)
        if takes_values and call not in CALLS:
            raise ValueError(f"{call} in {enclosing_module(node)} has no integer form: {KNOWN}")
        try:
            if not takes_values:
                return self._constant(node, call, arguments, keywords)
            return CALLS[call](self.builder, self.builder.name(node.name), *arguments, **keywords)
        except TypeError:
            raise ValueError(
                f"{call} in {enclosing_module(node)} is called in a way that has no integer form"
            ) from None

    def _constant(self, node: fx.Node, call: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        """Evaluate a call whose arguments are constants, such as a view of a buffer."""
        if node.op == "call_method":
            return getattr(arguments[0], call)(*arguments[1:], **keywords)
        assert callable(node.target)
        return node.target(*arguments, **keywords)


def _check_sizes(program: Program) -> None:
    """Reject codes and sums for which engines have no types.

    Raises:
        ValueError: If there are any. The message names the layer.
    """
    codes = ranges(program)
    for op in program.ops:
        if isinstance(op, Requantize) and not are_bytes(op.low, op.high):
            raise ValueError(f"{op.name} has codes from {op.low} to {op.high}: engines support at most 8 bits")
        if isinstance(op, Convolution | WindowSum) and not are_bytes(*codes.get(op.source, (0, 0))):
            raise ValueError(f"{op.name} takes averages that are not quantized and so not bytes: quantize its input")
        if isinstance(op, WindowSum) and max(map(abs, codes.get(op.name, (0, 0)))) >= EXACT:
            raise ValueError(f"{op.name}: sums of codes over {op.kernel} are too large to be exact in float32")
    for name, bound in sums(program):
        if bound >= 2**31:
            raise ValueError(f"{name}: its sums reach {bound}, beyond the 32 bits of engines")


def _image_channels(network: nn.Module, graph: fx.Graph, resolution: tuple[int, int]) -> int:
    """Return the number of image channels, as given by the first layer."""
    names = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    for name in names:
        layer = network.get_submodule(name)
        if isinstance(layer, nn.Conv2d):
            return layer.in_channels
        if isinstance(layer, nn.Linear):
            channels, rest = divmod(layer.in_features, math.prod(resolution))
            if rest:
                raise ValueError(
                    f"{name} takes {layer.in_features} values, which is not an image of {resolution} pixels"
                )
            return channels
    raise ValueError("the network has no layer that tells how many channels an image has")
