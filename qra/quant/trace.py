"""Trace a network down to the modules that quantization knows."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from qra.errors import reason_of
from qra.quant.layers import ActivationFakeQuantizer

Network = TypeVar("Network", bound=nn.Module)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_leaf(m)


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is a unit for quantization: a layer, a quantizer or any PyTorch module but ``nn.Sequential``."""
    known = isinstance(module, nn.Conv2d | nn.Linear | ActivationFakeQuantizer)
    return known or (type(module).__module__.startswith("torch.nn.") and not isinstance(module, nn.Sequential))


def copied(network: Network) -> Network:
    """Deep-copy a network, even if modules keep computed tensors in attributes, as weight norm and pruning do."""
    attributes = [value for module in network.modules() for value in vars(module).values()]
    computed = [value for value in attributes if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(network, {id(value): value.detach().clone() for value in computed})


def find_graph(network: nn.Module) -> fx.Graph:
    """Return the graph of a forward pass in eval mode, whose leaves are modules of PyTorch and of :mod:`qra.quant`.

    Args:
        network: It is not changed: a copy is traced, because modules may keep objects of the tracing.

    Raises:
        ValueError: If ``torch.fx`` cannot trace the network. The message gives the reason.
    """
    if "forward" in vars(network):
        raise ValueError("the network cannot be traced: its forward pass is replaced on this instance")
    try:
        with torch.random.fork_rng(devices=[]):
            return traced(_Tracer(), copied(network).eval())
    except Exception as reason:  # a forward pass without tensors may raise anything
        raise ValueError(f"the network cannot be traced: {reason_of(reason)[:200]}") from None


def defaults_of(forward: Callable[..., Any]) -> dict[str, Any]:
    """Return the arguments of a forward pass that have default values, with these values."""
    parameters = inspect.signature(forward).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def traced(tracer: fx.Tracer, module: nn.Module) -> fx.Graph:
    """Trace a forward pass with all optional arguments at their defaults; modules are called by position."""
    fixed = defaults_of(module.forward)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about defaults that no assertion can enforce
        graph = tracer.trace(module, fixed)
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    for node in inputs[len(inputs) - len(fixed) :]:
        _erase(graph, node)
    for node in graph.nodes:
        if node.op == "call_module" and node.kwargs:
            forward = module.get_submodule(str(node.target)).forward
            given = inspect.signature(forward).bind(*node.args, **node.kwargs)
            node.args, node.kwargs = given.args, given.kwargs
    return graph


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    """Erase a node and everything computed from it."""
    for user in list(node.users):
        _erase(graph, user)
    graph.erase_node(node)


def trace(network: nn.Module, consequence: str) -> fx.Graph | None:
    """Return the graph of a network's forward pass, if it can be traced.

    Args:
        network: The network to trace, see :func:`find_graph`.
        consequence: What the user must know if the network cannot be traced, for the warning.

    Returns:
        The graph, or None, with a warning, if ``torch.fx`` cannot trace the network.
    """
    try:
        return find_graph(network)
    except ValueError as reason:
        warnings.warn(f"{consequence}: {reason}", stacklevel=3)
        return None


def calls(graph: fx.Graph) -> Counter[str]:
    """Count the calls of each module, by name, in the order of the first calls."""
    return Counter(str(node.target) for node in graph.nodes if node.op == "call_module")


def caller(node: fx.Node) -> str:
    """Return the name of the module in whose forward pass a node was created, empty for the network itself."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else ""


def enclosing_module(node: fx.Node) -> str:
    """Return :func:`caller` for a message."""
    return caller(node) or "the network itself"


def call_name(node: fx.Node) -> str:
    """Return the name of the function, method or module that a node calls."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
