"""Fitting the network in a config to the data: its number of classes, its channels and its normalization."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jsonargparse import Namespace


def link_to_data(network: Namespace, num_classes: int, channels: int) -> bool:
    """Set the number of classes and channels of a network in a config to those of the data, if it takes them.

    Only arguments that have their default value are changed.

    Args:
        network: ``class_path`` and ``init_args``, possibly with nested networks; changed in place.
        num_classes: Number of classes in the data.
        channels: Number of channels of the images.

    Returns:
        Whether anything was changed.
    """
    wanted = {"num_classes": num_classes, "in_channels": channels, "in_chans": channels}
    return sum(_set(part, wanted) for part in _parts(network)) > 0


def link_normalization(network: Namespace, normalization: Callable[[], tuple[list[float], list[float]] | None]) -> bool:
    """Set the mean and standard deviation of a network in a config to those of the data; see :func:`link_to_data`.

    Args:
        network: ``class_path`` and ``init_args``, possibly with nested networks; changed in place.
        normalization: Function that returns both per channel in pixel units, or None to keep the defaults; called only
            if they are needed.

    Returns:
        Whether anything was changed.
    """
    names, changed = ("mean", "std"), False
    for part in _parts(network):
        if all(_stands_at_default(part, name) for name in names) and (found := normalization()) is not None:
            changed |= _set(part, dict(zip(names, found, strict=True)))
    return changed


def _parts(network: Namespace) -> Iterator[Namespace]:
    """Yield a network in a config and the networks nested in it, as far as they have arguments."""
    arguments = network.get("init_args")
    if isinstance(arguments, Namespace):
        for value in vars(arguments).values():
            if isinstance(value, Namespace) and "class_path" in value:
                yield from _parts(value)
        yield network


def _set(part: Namespace, wanted: Mapping[str, Any]) -> bool:
    """Set arguments that have their default value, and return whether anything changed."""
    new = {
        name: value
        for name, value in wanted.items()
        if _stands_at_default(part, name) and _plain(part.init_args[name]) != _plain(value)
    }
    for name, value in new.items():
        part.init_args[name] = value
    return bool(new)


def _stands_at_default(part: Namespace, name: str) -> bool:
    defaults = _defaults(str(part.get("class_path")))
    return name in part.init_args and name in defaults and _plain(part.init_args[name]) == _plain(defaults[name])


def _defaults(class_path: str) -> dict[str, Any]:
    """Return the default arguments of a class or function named in a config."""
    module, _, name = class_path.rpartition(".")
    maker: Callable[..., Any] | None = getattr(importlib.import_module(module), name, None) if module else None
    if maker is None:
        return {}
    known = {"num_classes": 1000} if class_path.startswith("torchvision.models.") else {}
    parameters = inspect.signature(maker).parameters.values()
    return {**known, **{p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
