"""The attack-time network: the same function as a network in eval mode, at a fraction of the cost."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

ConvBN = tuple[str, str]


class _ChannelsLast(torch.autograd.Function):
    """To channels-last and, for the gradient, back: outside, images stay contiguous (attacks call ``view``)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous()


class FrozenNetwork(nn.Module):
    """A copy of a network in eval mode, made for input gradients; see :func:`freeze`.

    Attributes:
        folded: The (convolution, batch normalization) pairs, by name, that became one convolution.
    """

    def __init__(self, network: nn.Module, pairs: list[ConvBN]) -> None:
        super().__init__()
        self._source = [network]  # in a list: not a submodule
        self.folded = pairs
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        for conv_name, bn_name in pairs:
            conv = self.network.get_submodule(conv_name)
            conv.bias = nn.Parameter(torch.zeros_like(_folded(network, conv_name, bn_name)[1]), requires_grad=False)
            _set_submodule(self.network, bn_name, nn.Identity())
        self.network.to(memory_format=torch.channels_last)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> FrozenNetwork:
        """Take over the present weights and statistics of the source network, in place.

        Returns:
            This network.
        """
        source = self._source[0]
        values = {**dict(source.named_parameters()), **dict(source.named_buffers())}
        for conv_name, bn_name in self.folded:
            values[f"{conv_name}.weight"], values[f"{conv_name}.bias"] = _folded(source, conv_name, bn_name)
        for name, value in (*self.network.named_parameters(), *self.network.named_buffers()):
            value.copy_(values[name])
        return self

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(_ChannelsLast.apply(x))
        return logits


def freeze(network: nn.Module) -> FrozenNetwork:
    """Make the attack-time copy of a network.

    Batch normalization in eval mode is folded into the convolution before it, parameters take no gradients, and
    activations are channels-last inside. Logits agree with those of ``network`` in eval mode within 1e-4 in float32:
    sums are taken in another order. After the source has been trained further, call ``refresh``.

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
    try:
        graph = fx.Tracer().trace(network)
    except (fx.proxy.TraceError, TypeError, RuntimeError, AssertionError) as reason:
        warnings.warn(f"batch normalization is not folded, for the network cannot be traced: {reason}", stacklevel=2)
        return []
    modules = dict(network.named_modules())
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    pairs = []
    for node in graph.nodes:
        bn = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(bn, nn.BatchNorm2d) or bn.running_mean is None:
            continue
        before = node.args[0]
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        names = str(before.target), str(node.target)
        if isinstance(modules[names[0]], nn.Conv2d) and calls[names[0]] == calls[names[1]] == 1:
            pairs.append(names)
    return pairs


def _folded(source: nn.Module, conv_name: str, bn_name: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that equals the pair in eval mode."""
    conv = cast(nn.Conv2d, source.get_submodule(conv_name))
    bn = cast(nn.BatchNorm2d, source.get_submodule(bn_name))
    assert bn.running_mean is not None  # conv_bn_pairs sees to that
    assert bn.running_var is not None
    return fuse_conv_bn_weights(conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)


def _set_submodule(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
