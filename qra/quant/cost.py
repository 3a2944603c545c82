"""What a network costs: parameters, bits, multiply-adds and BitOPs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx, nn

from qra.quant.layers import ActivationFakeQuantizer, QuantLayer
from qra.quant.network import activation_quantizers, evaluating, float_mode, quantizer_parameters
from qra.quant.scheme import OFF
from qra.quant.trace import trace

IMAGE_BITS = 8
"""Bits of a pixel that no quantizer has changed."""


class LayerCost(NamedTuple):
    """The cost of one convolution or linear layer, for one image.

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
        layers: Convolutions and linear layers, in the order of the modules.
        other_parameters: Number of parameters beside the weights of these layers and the quantizers' own, 32 bits each.
        activation_values: Numbers that the quantizers of activations hold, such as clip levels.
    """

    layers: tuple[LayerCost, ...]
    other_parameters: int
    activation_values: int = 0

    @property
    def parameters(self) -> int:
        """Number of parameters, without those of quantizers."""
        return sum(layer.weights for layer in self.layers) + self.other_parameters

    @property
    def size_in_bits(self) -> int:
        """Memory of all parameters, and of the scales and clip levels of quantizers, 32 bits each."""
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
    """Count what a network costs.

    A value keeps its bits through whatever takes it alone, such as pooling and padding, until a convolution or linear
    layer; a sum of two values has 32 until it is quantized. Where the network cannot be traced, inputs count 32 bits.

    Args:
        network: Float or quantized. It is run once, on an image of zeros.
        image_shape: Channels, height and width.
    """
    positions = _output_positions(network, image_shape)
    input_bits = _input_bits(network)
    layers = []
    for name, layer in _layers(network).items():
        quantizer = layer.weight_quantizer if isinstance(layer, QuantLayer) else None
        bits = OFF if quantizer is None else quantizer.bit_width
        stored = OFF if quantizer is None else quantizer.settings.stored_bits(bits)
        weights = layer.weight.numel()
        done = weights * positions[name]
        layers.append(LayerCost(name, weights, bits, stored, input_bits.get(name, OFF), done, _scales(layer)))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    learned = sum(parameter.numel() for parameter in quantizer_parameters(network))
    values = sum(len(quantizer.state_dict()) for quantizer in activation_quantizers(network).values())
    return Cost(tuple(layers), parameters - learned - sum(layer.weights for layer in layers), values)


def _scales(layer: nn.Module) -> int:
    """Number of scales of the weights of a layer; of a quantizer without grids, of what it learns."""
    quantizer = layer.weight_quantizer if isinstance(layer, QuantLayer) else None
    if quantizer is None:
        return 0
    layout = quantizer.settings.layout(cast(Tensor, layer.weight), quantizer.bit_width)
    return layout.scales if layout else sum(parameter.numel() for parameter in quantizer.parameters())


def _layers(network: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}


def _output_positions(network: nn.Module, image_shape: Sequence[int]) -> dict[str, int]:
    """How often each layer's weights are applied to one image."""
    positions = dict.fromkeys(_layers(network), 0)

    def count(name: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            positions[name] += output.numel() // len(cast(Tensor, layer.weight))

        return hook

    handles = [layer.register_forward_hook(count(name)) for name, layer in _layers(network).items()]
    with evaluating(network), float_mode(network):
        network(torch.zeros(1, *image_shape, device=next(network.parameters()).device))
    for handle in handles:
        handle.remove()
    return positions


def _input_bits(network: nn.Module) -> dict[str, int]:
    """Bits of the inputs of each layer, by name."""
    graph = trace(network, "the inputs of layers count 32 bits")
    modules = dict(network.named_modules())
    bits: dict[fx.Node, int] = {}
    found = {}
    for node in graph.nodes if graph else ():
        inputs = [bits[source] for source in node.all_input_nodes if source.op != "get_attr"]
        bits[node] = inputs[0] if len(inputs) == 1 else OFF
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if node.op == "placeholder":
            bits[node] = IMAGE_BITS
        elif isinstance(module, ActivationFakeQuantizer):
            bits[node] = module.bit_width
        elif isinstance(module, nn.Conv2d | nn.Linear):
            own = module.input_quantizer if isinstance(module, QuantLayer) else None
            found[str(node.target)] = bits[node] if own is None else own.bit_width
            bits[node] = OFF
    return found
