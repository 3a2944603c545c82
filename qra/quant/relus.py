"""Give each ReLU of a network its own module, including those called as functions or more than once."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

from torch import fx, nn

from qra.quant.trace import call_name, defaults_of, traced

ReLU = nn.ReLU | nn.Hardtanh  # nn.ReLU6 is one of the latter


def is_relu(module: nn.Module) -> bool:
    """Whether a module is a ReLU, possibly one with an upper limit such as ReLU6."""
    return type(module) in (nn.ReLU, nn.ReLU6) or (type(module) is nn.Hardtanh and module.min_val == 0)


def clip_of(module: nn.Module) -> float | None:
    """Return the largest output of a ReLU; None for no limit."""
    return float(module.max_val) if isinstance(module, nn.Hardtanh) else None


def relu_module(clip: float | None, inplace: bool = False) -> ReLU:
    """Return a ReLU with the given upper limit, or with none."""
    if clip is None:
        return nn.ReLU(inplace)
    return nn.ReLU6(inplace) if clip == 6 else nn.Hardtanh(0, clip, inplace)


def split_relus(network: nn.Module) -> list[str]:
    """Give each ReLU call in a network its own module, in place. The keys of its ``state_dict`` do not change.

    The forward passes of modules that call ``relu``, ``relu6`` or ``clamp`` (from zero) as a function or method, or
    call a ReLU module twice, are traced by ``torch.fx`` with all submodules as leaves, and rewritten to call modules
    instead. A forward pass stays as it is if it cannot be traced or depends on the mode in other ways than dropout
    does, and for calls with other than the default arguments.

    Returns:
        Names of the modules whose forward pass was changed; :func:`join_relus` changes it back.
    """
    _unshare(network)
    changed = []
    for name, module in network.named_modules():
        rewritten = None if _is_plain(module) else _rewritten(module)
        if rewritten is not None:
            changed.append((name, module, rewritten))
    for _, module, (forward, added) in changed:
        kind = type(module)
        members = {"forward": forward, "__module__": kind.__module__, "__doc__": kind.__doc__, _ADDED: tuple(added)}
        for name, relu in added.items():
            module.add_module(name, relu)
        module.__class__ = type(kind.__name__, (kind,), members)
    return [name for name, _, _ in changed]


def join_relus(network: nn.Module) -> None:
    """Undo the changes of :func:`split_relus` to forward passes."""
    for module in list(network.modules()):
        if _ADDED in vars(type(module)):
            for name in getattr(type(module), _ADDED):
                delattr(module, name)
            module.__class__ = type(module).__mro__[1]


def added_relus(network: nn.Module) -> set[str]:
    """Return the names of the modules that :func:`split_relus` added. They run only if their function is called."""
    return {
        f"{name}.{added}" if name else added
        for name, module in network.named_modules()
        for added in getattr(type(module), _ADDED, ())
    }


def say_split(names: list[str]) -> None:
    """Log one line about the modules that :func:`split_relus` changed."""
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 4 else ""
        places = ", ".join(name or "the network itself" for name in (names[:3] if more else names))
        logging.getLogger("qra").warning(
            "ReLUs that are called as functions, or more than once, were replaced by separate modules in %s%s",
            places,
            more,
        )


_ADDED = "_added_relus"
"""Attribute of a changed class that lists the modules it calls and its original does not have."""


def _unshare(network: nn.Module) -> None:
    """Replace a ReLU that several modules share, or that has several names, by copies."""
    seen: set[int] = set()
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if child is not None and is_relu(child):
                if id(child) in seen:
                    parent._modules[name] = copy.deepcopy(child)
                seen.add(id(child))


def _is_plain(module: nn.Module) -> bool:
    """Whether the forward pass is PyTorch's own, or belongs to this instance, as that of a traced network does."""
    home = getattr(getattr(type(module), "forward", None), "__module__", None)
    return "forward" in vars(module) or home is None or home.startswith("torch.nn.")


def _rewritten(module: nn.Module) -> tuple[Any, dict[str, ReLU]] | None:
    """Return a module's forward pass with its ReLUs as modules, and the modules to add; None if nothing changes."""
    graph = _trace(module, training=False)
    if graph is None or not any(True for _ in _calls(module, graph)):
        return None
    other = _trace(module, training=True)
    if other is None or not _follow_the_mode(graph, other):
        return None
    holder, added = _double(module, False), dict[str, ReLU]()
    for node, relu in list(_calls(module, graph)):
        base = str(node.target).replace(".", "_") if node.op == "call_module" else "relu"
        name = next(name for i in itertools.count(1) if not hasattr(holder, name := f"{base}_{i}"))
        added[name] = relu
        holder.add_module(name, relu)
        _replace(graph, node, name, is_inplace(node, holder))
    rewritten = cast(Any, type(fx.GraphModule(holder, graph))).forward
    return _by_default(type(module).forward, rewritten), added


def _by_default(original: Any, rewritten: Any) -> Any:
    """Return a forward pass that uses the rewritten one for default arguments and the original otherwise."""
    signature, defaults = inspect.signature(original), defaults_of(original)
    if not defaults:
        return rewritten

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        chosen = {name: given.pop(name) for name in defaults if name in given}
        if all(type(value) is type(defaults[name]) and value == defaults[name] for name, value in chosen.items()):
            return rewritten(*given.values())
        return original(*args, **kwargs)

    return forward


class _Shallow(fx.Tracer):
    """Treats all modules as leaves."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _double(module: nn.Module, training: bool) -> nn.Module:
    """Return an object that shares another's tensors and modules, but no attribute that tracing may write to."""
    double = object.__new__(type(module))
    containers = (dict, list, set)
    double.__dict__ = {k: copy.copy(v) if isinstance(v, containers) else v for k, v in vars(module).items()}
    double.training = training
    return double


def _trace(module: nn.Module, training: bool) -> fx.Graph | None:
    """Trace a module's own forward pass, with its arguments at their defaults; None if that fails."""
    try:
        return traced(_Shallow(), _double(module, training))
    except Exception:  # a forward pass without tensors may raise anything
        return None


def _follow_the_mode(graph: fx.Graph, training: fx.Graph) -> bool:
    """Make an eval-mode graph read the mode where the training graph differs; return False if they differ otherwise."""
    nodes, others = list(graph.nodes), list(training.nodes)
    if [(n.op, str(n.target)) for n in nodes] != [(n.op, str(n.target)) for n in others]:
        return False
    for node, other in zip(nodes, others, strict=True):
        mine, theirs = ((n.args, dict(n.kwargs)) for n in (node, other))
        if repr(mine) == repr(theirs):
            continue
        with graph.inserting_before(node):
            mode = graph.get_attr("training")
        try:
            node.args, node.kwargs = _with_mode(mine, theirs, mode)
        except ValueError:
            return False
    return True


def _with_mode(mine: Any, theirs: Any, mode: fx.Node) -> Any:
    if mine is False and theirs is True:
        return mode
    if isinstance(mine, tuple | list) and type(mine) is type(theirs) and len(mine) == len(theirs):
        return type(mine)(_with_mode(a, b, mode) for a, b in zip(mine, theirs, strict=True))
    if isinstance(mine, dict) and isinstance(theirs, dict) and mine.keys() == theirs.keys():
        return {key: _with_mode(value, theirs[key], mode) for key, value in mine.items()}
    if repr(mine) != repr(theirs):
        raise ValueError
    return mine


def _calls(module: nn.Module, graph: fx.Graph) -> Iterator[tuple[fx.Node, ReLU]]:
    """Yield each call of a ReLU without a module of its own, and the module it is to have."""
    count: Counter[str] = Counter()
    for node in graph.nodes:
        if node.op == "call_module":
            relu = module.get_submodule(str(node.target))
            count[str(node.target)] += 1
            if is_relu(relu) and count[str(node.target)] > 1:
                yield node, copy.deepcopy(cast(ReLU, relu))
        elif node.op in ("call_function", "call_method"):
            found = relu_called(node)
            if found is not None:
                yield node, found


def relu_called(node: fx.Node) -> ReLU | None:
    """Return the ReLU that a called function or method computes; None if it is not a ReLU."""
    if len(node.args) < 1 or not isinstance(node.args[0], fx.Node):
        return None
    more: list[Any] = [*node.args[1:], None, None]
    low = node.kwargs.get("min", node.kwargs.get("min_val", more[0]))
    high = node.kwargs.get("max", node.kwargs.get("max_val", more[1]))
    base = call_name(node).removesuffix("_")
    if base in ("relu", "relu6"):
        return relu_module(6 if base == "relu6" else None)
    limits = {"clamp": (low, high), "clip": (low, high), "hardtanh": (low, high), "clamp_min": (low, None)}
    low, high = limits.get(base, (None, None))
    if type(low) not in (int, float) or low != 0 or (high is not None and type(high) not in (int, float)):
        return None
    return relu_module(high)


def is_inplace(node: fx.Node, module: nn.Module) -> bool:
    """Whether a ReLU call in the forward pass of ``module`` modifies its input."""
    if node.op == "call_module":
        return bool(getattr(module.get_submodule(str(node.target)), "inplace", False))
    return bool(call_name(node).endswith("_") or node.kwargs.get("inplace", node.args[1:2] == (True,)))


def readers_after(node: fx.Node) -> list[fx.Node]:
    """Return the nodes that read the input of a call after the call."""
    order = {each: place for place, each in enumerate(node.graph.nodes)}
    return [user for user in node.all_input_nodes[0].users if order[user] > order[node]]


def _replace(graph: fx.Graph, node: fx.Node, name: str, inplace: bool) -> None:
    """Replace a ReLU by a module call, also for later readers of a tensor that it modified in place."""
    before = cast(fx.Node, node.args[0])
    with graph.inserting_after(node):
        new = graph.call_module(name, (before,))
    node.replace_all_uses_with(new)
    if inplace:
        later = readers_after(new)
        before.replace_all_uses_with(new, delete_user_cb=lambda user: user in later)
    graph.erase_node(node)
