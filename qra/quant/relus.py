"""Giving each ReLU of a network a module of its own: those called as functions, and those called more than once."""

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

from qra.quant.trace import defaults_of, traced

ReLU = nn.ReLU | nn.Hardtanh  # nn.ReLU6 is one of the latter


def is_relu(module: nn.Module) -> bool:
    """Whether a module is a ReLU, possibly one with an upper limit such as ReLU6."""
    return type(module) in (nn.ReLU, nn.ReLU6) or (type(module) is nn.Hardtanh and module.min_val == 0)


def clip_of(module: nn.Module) -> float | None:
    """The largest output of a ReLU; None for no limit."""
    return float(module.max_val) if isinstance(module, nn.Hardtanh) else None


def relu_module(clip: float | None, inplace: bool = False) -> ReLU:
    """The ReLU with an upper limit, or none."""
    if clip is None:
        return nn.ReLU(inplace)
    return nn.ReLU6(inplace) if clip == 6 else nn.Hardtanh(0, clip, inplace)


def split_relus(network: nn.Module) -> list[str]:
    """Give each call of a ReLU in a network a module of its own, in place. No key of its ``state_dict`` changes.

    The forward passes of modules that call ``relu``, ``relu6`` or ``clamp`` (from zero) as a function or a method, or a
    ReLU module twice, are traced by ``torch.fx`` with all modules inside left whole, and call modules instead. What
    cannot be traced, depends on the mode in other ways than dropout does, or is called with other than the default
    arguments, is left as it is.

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
    """Undo what :func:`split_relus` did to forward passes."""
    for module in list(network.modules()):
        if _ADDED in vars(type(module)):
            for name in getattr(type(module), _ADDED):
                delattr(module, name)
            module.__class__ = type(module).__mro__[1]


def added_relus(network: nn.Module) -> set[str]:
    """Names of the modules that :func:`split_relus` added. One does not run if its function is not called."""
    return {
        f"{name}.{added}" if name else added
        for name, module in network.named_modules()
        for added in getattr(type(module), _ADDED, ())
    }


def say_split(names: list[str]) -> None:
    """Tell in one line what became modules."""
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 4 else ""
        places = ", ".join(name or "the network itself" for name in (names[:3] if more else names))
        logging.getLogger("qra").warning(
            "ReLUs that are called as functions, or more than once, became modules of their own in %s%s", places, more
        )


_ADDED = "_added_relus"
"""Where a changed class says which modules it calls that its original does not have."""


def _unshare(network: nn.Module) -> None:
    """Give a ReLU that several modules hold, or one under several names, to each as a copy."""
    seen: set[int] = set()
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if child is not None and is_relu(child):
                if id(child) in seen:
                    parent._modules[name] = copy.deepcopy(child)
                seen.add(id(child))


def _is_plain(module: nn.Module) -> bool:
    """Whether the forward pass is torch's own, or belongs to this one object."""
    return "forward" in vars(module) or type(module).forward.__module__.startswith("torch.nn.")


def _rewritten(module: nn.Module) -> tuple[Any, dict[str, ReLU]] | None:
    """The forward pass of a module with its ReLUs as modules, and the modules to be added; None if nothing changes."""
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
    """A forward pass that is rewritten for the default arguments, and the original one for others."""
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
    """Leaves all modules whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _double(module: nn.Module, training: bool) -> nn.Module:
    """An object that shares the tensors and modules of another, but no attribute that tracing may write to."""
    double = object.__new__(type(module))
    containers = (dict, list, set)
    double.__dict__ = {k: copy.copy(v) if isinstance(v, containers) else v for k, v in vars(module).items()}
    double.training = training
    return double


def _trace(module: nn.Module, training: bool) -> fx.Graph | None:
    """The graph of a module's own forward pass, its arguments at their defaults; None if there is none."""
    try:
        return traced(_Shallow(), _double(module, training))
    except Exception:  # all that a forward pass raises that is given no tensors
        return None


def _follow_the_mode(graph: fx.Graph, training: fx.Graph) -> bool:
    """Let a graph made in eval mode ask for the mode, where it differs from the one made in training by that alone."""
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
    """Each call of a ReLU that has no module of its own, with the module that it is to have."""
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
    """The ReLU that a function or a method is."""
    call = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if len(node.args) < 1 or not isinstance(node.args[0], fx.Node):
        return None
    more: list[Any] = [*node.args[1:], None, None]
    low = node.kwargs.get("min", node.kwargs.get("min_val", more[0]))
    high = node.kwargs.get("max", node.kwargs.get("max_val", more[1]))
    base = call.removesuffix("_")
    if base in ("relu", "relu6"):
        return relu_module(6 if base == "relu6" else None)
    limits = {"clamp": (low, high), "clip": (low, high), "hardtanh": (low, high), "clamp_min": (low, None)}
    low, high = limits.get(base, (None, None))
    if type(low) not in (int, float) or low != 0 or (high is not None and type(high) not in (int, float)):
        return None
    return relu_module(high)


def is_inplace(node: fx.Node, module: nn.Module) -> bool:
    """Whether a call of a ReLU changes what it is given.

    Args:
        node: The call.
        module: The module whose forward pass it is in.
    """
    if node.op == "call_module":
        return bool(getattr(module.get_submodule(str(node.target)), "inplace", False))
    call = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return bool(call.endswith("_") or node.kwargs.get("inplace", node.args[1:2] == (True,)))


def readers_after(node: fx.Node) -> list[fx.Node]:
    """The nodes that read what a call is given once more, after it."""
    order = {each: place for place, each in enumerate(node.graph.nodes)}
    return [user for user in node.all_input_nodes[0].users if order[user] > order[node]]


def _replace(graph: fx.Graph, node: fx.Node, name: str, inplace: bool) -> None:
    """Call a module in the place of a ReLU, also for those who later read what it changed in place."""
    before = cast(fx.Node, node.args[0])
    with graph.inserting_after(node):
        new = graph.call_module(name, (before,))
    node.replace_all_uses_with(new)
    if inplace:
        later = readers_after(new)
        before.replace_all_uses_with(new, delete_user_cb=lambda user: user in later)
    graph.erase_node(node)
