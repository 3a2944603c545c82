"""Find out by running a network what reaches each of its layers, for networks that ``torch.fx`` cannot trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from qra.quant.follow import CONSTANT, IMAGE, Flow, Source, after_module, before_module, quantizer_sites
from qra.quant.gaps import check_gaps, check_used_once, find_gaps
from qra.quant.network import evaluating, float_mode, quant_layers
from qra.quant.scheme import QuantScheme
from qra.quant.trace import find_graph, is_leaf


def check_run(network: nn.Module, scheme: QuantScheme, x: Tensor) -> None:
    """Reject a converted network that cannot be traced if a run shows that a part of it stays float.

    Args:
        network: Converted network. One that can be traced was already checked by the conversion.
        scheme: Scheme by which it was converted.
        x: Images in [0, 1], (N, C, H, W).

    Raises:
        ValueError: If parts stay float, never run or run twice. The message names them.
    """
    try:
        find_graph(network)
    except ValueError:
        flow = watch(network, x)
        sites = {**quantizer_sites(network), **quant_layers(network)}
        kinds = {name: type(network.get_submodule(name)).__name__.removeprefix("Quant") for name in sites}
        check_used_once(kinds, flow.calls)
        check_gaps(find_gaps(network, scheme, kinds, flow), scheme)


def watch(network: nn.Module, x: Tensor) -> Flow:
    """Record the sources of values in a forward pass of images in [0, 1], in eval mode and with quantizers off."""
    watcher = _Watcher(network)
    try:
        with evaluating(network), float_mode(network), watcher:
            watcher.see(x, IMAGE)
            network(x)
    finally:
        watcher.remove_hooks()
    return watcher.flow


class _Watcher(TorchFunctionMode):
    """Records the source of each tensor. Inside leaf modules, functions are ignored."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.flow = Flow()
        self._sites = quantizer_sites(network)
        self._constants = {id(tensor) for tensor in (*network.parameters(), *network.buffers())}
        self._sources: dict[int, Source] = {}
        self._kept: list[Tensor] = []  # keeps ids of recorded tensors from being reused
        self._inside: list[str] = []
        self._leaf: str | None = None
        self._handles = [
            handle
            for name, module in network.named_modules()
            for handle in (
                module.register_forward_pre_hook(self._entering(name), with_kwargs=True),
                module.register_forward_hook(self._leaving(name), with_kwargs=True),
            )
        ]

    def remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()

    def see(self, value: Any, source: Source | None) -> None:
        """Record the source of the tensors of a result."""
        for tensor in _tensors([value]):
            if source is not None and id(tensor) not in self._constants:
                self._sources[id(tensor)] = source
                self._kept.append(tensor)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._leaf is None and any(True for _ in _tensors([result])):
            sources = self._of((args, kwargs or {}))
            self.see(result, self.flow.call(self._inside[-1] if self._inside else "", func.__name__, sources))
        return result

    def _of(self, arguments: Any) -> list[Source | None]:
        return [self._sources.get(id(tensor), CONSTANT) for tensor in _tensors(arguments)]

    def _entering(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, *arguments: Any) -> None:
            if self._leaf is None:
                self.flow.enter(name, module, before_module(name, self._sites, self._of(arguments)))
                self._leaf = name if is_leaf(module) else None
            self._inside.append(name)

        return hook

    def _leaving(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            self._inside.pop()
            if self._leaf == name:
                self._leaf = None
                self.see(result, after_module(name, module, self._sites, self._of((args, kwargs))))

        return hook


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple | dict):
            yield from _tensors(value.values() if isinstance(value, dict) else value)
