"""Tracing a network down to the modules that quantization knows."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from qra.quant.layers import ActivationFakeQuantizer

Network = TypeVar("Network", bound=nn.Module)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_leaf(m)


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is a whole to quantization: a layer, a quantizer, or any module of torch's but a sequence."""
    known = isinstance(module, nn.Conv2d | nn.Linear | ActivationFakeQuantizer)
    return known or (type(module).__module__.startswith("torch.nn.") and not isinstance(module, nn.Sequential))


def copied(network: Network) -> Network:
    """A deep copy, also where modules keep computed tensors in attributes, as weight norm and pruning do."""
    attributes = [value for module in network.modules() for value in vars(module).values()]
    computed = [value for value in attributes if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(network, {id(value): value.detach().clone() for value in computed})


def find_graph(network: nn.Module) -> fx.Graph:
    """The graph of a network's forward pass in eval mode, whose leaves are modules of torch and of :mod:`qra.quant`.

    Args:
        network: Not changed: a copy is traced, for traced modules may keep what they were traced with.

    Raises:
        ValueError: If ``torch.fx`` cannot trace the network, with the reason.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            return traced(_Tracer(), copied(network).eval())
    except Exception as reason:  # all that a forward pass raises that is given no tensors
        message = " ".join(str(reason).split())[:200] or type(reason).__name__
        raise ValueError(f"the network cannot be traced: {message}") from None


def defaults_of(forward: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of a forward pass that have defaults, with these."""
    parameters = inspect.signature(forward).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def traced(tracer: fx.Tracer, module: nn.Module) -> fx.Graph:
    """The graph of a forward pass that is given no argument which has a default."""
    fixed = defaults_of(module.forward)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of defaults that no assertion can hold a caller to
        graph = tracer.trace(module, fixed)
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    for node in inputs[len(inputs) - len(fixed) :]:
        _erase(graph, node)
    return graph


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    """Erase a node and what is made of it."""
    for user in list(node.users):
        _erase(graph, user)
    graph.erase_node(node)


def trace(network: nn.Module, consequence: str) -> fx.Graph | None:
    """The graph of a network's forward pass, as far as it can be had.

    Args:
        network: The network to trace, see :func:`find_graph`.
        consequence: What the user must know if the network cannot be traced, for the warning.

    Returns:
        None, with a warning, if ``torch.fx`` cannot trace the network.
    """
    try:
        return find_graph(network)
    except ValueError as reason:
        warnings.warn(f"{consequence}, for {reason}", stacklevel=3)
        return None


def calls(graph: fx.Graph) -> Counter[str]:
    """How often each module is called, by name, in the order of the first calls."""
    return Counter(str(node.target) for node in graph.nodes if node.op == "call_module")


def enclosing_module(node: fx.Node) -> str:
    """Name of the module in whose forward a node was made."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else "the network itself"
