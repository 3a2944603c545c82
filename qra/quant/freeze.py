"""The attack-time network: the same function as a network in eval mode, at a fraction of the cost."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from qra.graphs import Work
from qra.parts import Parts
from qra.precision import Precision
from qra.quant.layers import activation_quantizers, quant_layers, quantized_weight
from qra.quant.passes import Passes
from qra.quant.trace import calls, trace

ConvBN = tuple[str, str]


class FrozenNetwork(nn.Module):
    """A copy of a network in eval mode, made for input gradients; see :func:`freeze`.

    Attributes:
        folded: The (convolution, batch normalization) pairs, by name, that became one convolution.
        precision: What it computes in, whatever is set around it; None for what is set.
        passes: How it runs, see :class:`qra.quant.passes.Passes`.
        parts: How many images it runs on at a time.
    """

    precision: Precision | None = None

    def __init__(self, network: nn.Module, pairs: list[ConvBN]) -> None:
        super().__init__()
        self._source = [network]  # in a list: not a submodule
        self.folded = pairs
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        for layer in quant_layers(self.network).values():
            layer.weight_quantizer = None
        for conv_name, bn_name in pairs:
            conv = cast(nn.Conv2d, self.network.get_submodule(conv_name))
            conv.bias = nn.Parameter(conv.weight.new_zeros(len(conv.weight)), requires_grad=False)
            self.network.set_submodule(bn_name, nn.Identity())
        self.network.to(memory_format=torch.channels_last)
        self.passes = Passes(self.network)
        self.parts = Parts()
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> FrozenNetwork:
        """Take over the present weights and statistics of the source network, in place.

        Returns:
            This network.
        """
        weights = (layer.weight_quantizer for layer in quant_layers(self._source[0]).values())
        self.passes.again(self._take_over, self._source[0], [each for each in weights if each is not None])
        quantizers = activation_quantizers(self._source[0])
        for name, quantizer in activation_quantizers(self.network).items():
            quantizer.gradient = quantizers[name].gradient
            quantizer.state_changed()
        return self

    @torch.no_grad()
    def _take_over(self) -> None:
        source = self._source[0]
        values = {**dict(source.named_parameters()), **dict(source.named_buffers())}
        for name, layer in quant_layers(source).items():
            values[f"{name}.weight"] = quantized_weight(layer)
        for conv_name, bn_name in self.folded:
            bn = cast(nn.BatchNorm2d, source.get_submodule(bn_name))
            weight, bias = values[f"{conv_name}.weight"], values.get(f"{conv_name}.bias")
            values[f"{conv_name}.weight"], values[f"{conv_name}.bias"] = _folded(weight, bias, bn)
        for name, value in (*self.network.named_parameters(), *self.network.named_buffers()):
            value.copy_(values[name])

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            return self.passes(x, self.precision)  # whole, for its backward pass will come in one
        return self.parts(lambda part: (self.passes(part, self.precision),), x)[0]

    def replay(self, work: Work, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Do work that runs this network, recorded where that is possible; see :func:`qra.attacks.base.replayed`."""
        return self.parts(lambda *part: self.passes.replay(self, work, part, self.precision), *tensors)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenNetwork:
        self.passes.clear()  # weights move
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def freeze(network: nn.Module) -> FrozenNetwork:
    """Make the attack-time copy of a network.

    Weights are quantized once, batch normalization in eval mode is folded into the convolution before it, parameters
    take no gradients, and activations are channels-last inside; activation quantizers and their gradient mode are those
    of ``network``. After the source has been trained further, call ``refresh``.

    Sums are taken in another order than in ``network``. Without activation quantizers its logits agree in eval mode
    within 1e-4 in float32. With them they agree in float64; in float32 some roundings go the other way, so an attack on
    the copy counts only if it succeeds on ``network`` too.

    Args:
        network: Takes pixels in [0, 1], (N, C, H, W), and returns logits. It is not changed.

    Returns:
        The copy, on the same device. Where the network cannot be traced, batch normalization stays as it is and a
        warning says so.
    """
    return FrozenNetwork(network, conv_bn_pairs(network))


def conv_bn_pairs(network: nn.Module) -> list[ConvBN]:
    """Find each convolution whose output goes to one batch normalization and nowhere else.

    Returns:
        Names of convolution and batch normalization. Empty, with a warning, where ``torch.fx`` cannot trace.
    """
    graph = trace(network, "batch normalization is not folded")
    if graph is None:
        return []
    modules = dict(network.named_modules())
    count = calls(graph)
    pairs = []
    for node in graph.nodes:
        bn = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(bn, nn.BatchNorm2d) or bn.running_mean is None:
            continue
        before = node.args[0]
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        names = str(before.target), str(node.target)
        if isinstance(modules[names[0]], nn.Conv2d) and count[names[0]] == count[names[1]] == 1:
            pairs.append(names)
    return pairs


def _folded(weight: Tensor, bias: Tensor | None, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that equals a convolution and ``bn`` in eval mode."""
    assert bn.running_mean is not None  # conv_bn_pairs sees to that
    assert bn.running_var is not None
    return fuse_conv_bn_weights(weight, bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)
