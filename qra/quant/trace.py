"""Tracing a network down to the modules that quantization knows."""

from __future__ import annotations

import warnings
from collections import Counter

from torch import fx, nn

from qra.quant.layers import ActivationFakeQuantizer


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = isinstance(m, nn.Conv2d | nn.Linear | ActivationFakeQuantizer)
        return known or super().is_leaf_module(m, module_qualified_name)


def trace(network: nn.Module, consequence: str) -> fx.Graph | None:
    """The graph of a network's forward pass, whose leaves are modules of torch and of :mod:`qra.quant`.

    Args:
        network: Not changed.
        consequence: What the user must know if the network cannot be traced, for the warning.

    Returns:
        None, with a warning, if ``torch.fx`` cannot trace the network.
    """
    try:
        return _Tracer().trace(network)
    except (fx.proxy.TraceError, TypeError, RuntimeError, AssertionError) as reason:
        warnings.warn(f"{consequence}, for the network cannot be traced: {reason}", stacklevel=3)
        return None


def calls(graph: fx.Graph) -> Counter[str]:
    """How often each module is called, by name, in the order of the first calls."""
    return Counter(str(node.target) for node in graph.nodes if node.op == "call_module")


def enclosing_module(node: fx.Node) -> str:
    """Name of the module in whose forward a node was made."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else "the network itself"
