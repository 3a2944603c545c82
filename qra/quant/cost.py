"""The cost of a network: parameters, bits, multiply-adds and BitOPs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from qra.quant.follow import LAYERS, Flow, follow
from qra.quant.gaps import float_kinds
from qra.quant.layers import QuantLayer
from qra.quant.network import activation_quantizers, evaluating, float_mode, quantizer_parameters, seeing
from qra.quant.scheme import OFF, QuantScheme
from qra.quant.trace import find_graph
from qra.quant.watch import watch


class LayerCost(NamedTuple):
    """The cost of one layer, for one image.

    Attributes:
        name: Name of the module.
        weights: Number of weights, without biases.
        weight_bits: Bits of a weight in arithmetic.
        stored_bits: Bits of a weight in memory.
        input_bits: Bits of an input value.
        multiply_adds: Multiply-adds for one image.
        scales: Number of scales of the weights.
    """

    name: str
    weights: int
    weight_bits: int
    stored_bits: int
    input_bits: int
    multiply_adds: int
    scales: int = 0

    @property
    def bit_ops(self) -> int:
        """Multiply-adds times weight bits times input bits."""
        return self.multiply_adds * self.weight_bits * self.input_bits


class Cost(NamedTuple):
    """The cost of a network, for one image.

    Attributes:
        layers: Convolutions, linear and bilinear layers, in the order of the modules.
        other_parameters: Number of 32-bit parameters other than the weights of these layers and the parameters of
            quantizers.
        activation_values: Number of values that activation quantizers hold, such as clip levels.
        uncounted: Operations outside of these layers that multiply, such as the products of attention, and are not
            counted.
        float_parts: Uncounted operations that multiply by weights, which no quantizer reaches.
    """

    layers: tuple[LayerCost, ...]
    other_parameters: int
    activation_values: int = 0
    uncounted: tuple[str, ...] = ()
    float_parts: tuple[str, ...] = ()

    @property
    def parts(self) -> int:
        """Number of layers and other parts that multiply by weights."""
        return len(self.layers) + len(self.float_parts)

    @property
    def parameters(self) -> int:
        """Number of parameters, without those of quantizers."""
        return sum(layer.weights for layer in self.layers) + self.other_parameters

    @property
    def size_in_bits(self) -> int:
        """Bits to store all parameters and, at 32 bits each, the scales and clip levels of quantizers."""
        scales = sum(layer.scales for layer in self.layers) + self.activation_values
        return sum(layer.weights * layer.stored_bits for layer in self.layers) + OFF * (self.other_parameters + scales)

    @property
    def bit_ops(self) -> int:
        """BitOPs of all layers."""
        return sum(layer.bit_ops for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of all layers."""
        return sum(layer.multiply_adds for layer in self.layers)


def cost(network: nn.Module, image_shape: Sequence[int]) -> Cost:
    """Count parameters, bits, multiply-adds and BitOPs of a network.

    Layers are convolutions of any kind, linear and bilinear layers. A value keeps its bits through operations that only
    move it and, as in the literature, through pooling, although an exact average has more. A sum of two values has 32
    bits until it is quantized.

    Args:
        network: Float or quantized. It is run once, on an image of zeros.
        image_shape: Channels, height and width.
    """
    x = torch.zeros(1, *image_shape, device=next(network.parameters()).device)
    with torch.compiler.set_stance("force_eager"):  # compiling does not pay off for one pass
        multiply_adds, flow = _multiply_adds(network, x), _flow(network, x)
    layers = []
    for name, layer in _layers(network).items():
        quantizer = layer.weight_quantizer if isinstance(layer, QuantLayer) else None
        bits = OFF if quantizer is None else quantizer.bit_width
        stored = OFF if quantizer is None else quantizer.settings.stored_bits(bits)
        weights = cast(Tensor, layer.weight).numel()
        input_bits, done = _input_bits(flow, name), multiply_adds[name]
        layers.append(LayerCost(name, weights, bits, stored, input_bits, done, _scales(layer)))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    learned = sum(parameter.numel() for parameter in quantizer_parameters(network))
    values = sum(len(quantizer.state_dict()) for quantizer in activation_quantizers(network).values())
    other = parameters - learned - sum(layer.weights for layer in layers)
    float_parts = tuple(_float_parts(network, flow))
    products = [str(each) for each in flow.multiplications if not each.by_weights]
    return Cost(tuple(layers), other, values, (*float_parts, *products), float_parts)


def _scales(layer: nn.Module) -> int:
    """Return the number of scales of a layer's weights or, if the quantizer has no grid, of its learned values."""
    quantizer = layer.weight_quantizer if isinstance(layer, QuantLayer) else None
    if quantizer is None:
        return 0
    layout = quantizer.settings.layout(cast(Tensor, layer.weight), quantizer.bit_width)
    return layout.scales if layout else sum(parameter.numel() for parameter in quantizer.parameters())


def float_layers(scheme: QuantScheme, found: Cost) -> list[str]:
    """Return the names of what has float weights or inputs although the scheme quantizes weights or activations."""
    weights, inputs = scheme.weight_bit_width != OFF, scheme.act_bit_width != OFF
    layers = [
        layer.name
        for layer in found.layers
        if (weights and layer.weight_bits == OFF) or (inputs and layer.input_bits == OFF)
    ]
    return [*layers, *found.float_parts]


def label(scheme: QuantScheme, found: Cost) -> str:
    """Describe a network, such as ``W4A4 (DoReFa weights, PACT activations), partly float: 39 of 54 layers``."""
    count = len(float_layers(scheme, found))
    return f"{scheme}, partly float: {count} of {found.parts} layers" if count else str(scheme)


def _layers(network: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in network.named_modules() if isinstance(module, LAYERS)}


def _multiply_adds(network: nn.Module, x: Tensor) -> dict[str, int]:
    """Return the multiply-adds of each layer for one image."""
    found = dict.fromkeys(_layers(network), 0)

    def count(name: str, layer: nn.Module, taken: Tensor, output: Tensor) -> None:
        weight = cast(Tensor, layer.weight)
        values = taken if isinstance(layer, _ConvTransposeNd) else output  # channels match dim 0 of weight
        found[name] += weight.numel() * values.numel() // len(weight)

    with evaluating(network), float_mode(network), seeing(_layers(network), count):
        network(x)
    return found


def _flow(network: nn.Module, x: Tensor) -> Flow:
    try:
        return follow(network, find_graph(network))
    except ValueError:
        return watch(network, x)


def _input_bits(flow: Flow, name: str) -> int:
    return flow.inputs[name].bits if name in flow.inputs else OFF


def _float_parts(network: nn.Module, flow: Flow) -> Iterator[str]:
    """Yield the operations that multiply by weights but are not counted as layers."""
    for name, kind in float_kinds(network).items():
        if not isinstance(network.get_submodule(name), (*LAYERS, nn.Embedding, nn.EmbeddingBag)):
            yield f"{kind} {name}"
    yield from (str(each) for each in flow.multiplications if each.by_weights)
