"""Rebuilding objects described in a checkpoint, an untrusted file: from known names and plain values, with limits."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from qra import models, renamed
from qra.deploy.program import TWIN
from qra.deploy.twin import empty
from qra.describe import class_path
from qra.errors import one_line
from qra.nesting import is_deeper
from qra.quant import ActivationQuantizer, QuantScheme, RangeSettings, WeightQuantizer

Made = TypeVar("Made")
Maker = Callable[..., Any]

DEPTH = 12
"""Maximum nesting depth of descriptions, lists and mappings."""
LENGTH = 1000
"""Maximum number of entries of a list or mapping, and of characters of a string."""
LARGEST = 10**6
"""Largest integer argument, such as a number of classes, channels or blocks."""
_MEMORY = 2**32
"""Maximum bytes of all tensors made while a network is built."""
_STEPS = 20_000
"""Maximum number of tensor operations while a network is built; torchvision's largest networks need about 4,000."""
_WEIGHTS = ("weights", "weights_backbone", "pretrained", "pretrained_backbone")
"""Arguments that would cause a download."""

_REMEDY = "pass the network yourself or, to a command that takes --config, the config.yaml of its run"
_QUANTIZERS = (QuantScheme, WeightQuantizer, ActivationQuantizer, RangeSettings)


@functools.cache
def network_makers() -> dict[str, Maker]:
    """Return, by path, what a description may name as a network: from :mod:`qra.models` or torchvision, or a twin."""
    from torchvision import models as foreign_models  # imports for longer than torch, and few commands need it

    exported = {name: getattr(models, name) for name in models.__all__}
    own = {name: maker for name, maker in exported.items() if _makes_own_network(maker)}
    names = cast(list[str], foreign_models.list_models(module=foreign_models))
    foreign = {name: foreign_models.get_model_builder(name) for name in names}
    return {
        TWIN: empty,
        **{f"qra.models.{name}": maker for name, maker in own.items()},
        **{f"{maker.__module__}.{name}": maker for name, maker in own.items()},
        **{f"torchvision.models.{name}": _without_weights(maker) for name, maker in foreign.items()},
        **{f"{maker.__module__}.{name}": _without_weights(maker) for name, maker in foreign.items()},
    }


def _makes_own_network(maker: Any) -> bool:
    made = maker if inspect.isclass(maker) else typing.get_type_hints(maker).get("return") if callable(maker) else None
    return inspect.isclass(made) and issubclass(made, nn.Module) and made.__module__.startswith("qra.models.")


def _without_weights(builder: Maker) -> Maker:
    def make(**arguments: Any) -> Any:
        asked = [name for name in _WEIGHTS if arguments.pop(name, None) not in (None, False)]
        if asked:
            raise ValueError(f"{asked[0]} would be downloaded: leave it out")
        arguments |= {"weights": None, "progress": False}
        return builder(**arguments)

    return make


def quantizer_makers() -> dict[str, Maker]:
    """Return every imported quantizer by its path, including those of other packages."""
    return {class_path(cls): cls for kind in _QUANTIZERS for cls in (kind, *_subclasses(kind))}


def _subclasses(cls: type[Any]) -> Iterator[type[Any]]:
    below: type[Any]
    for below in cls.__subclasses__():
        yield below
        yield from _subclasses(below)


def rebuild(description: Any) -> nn.Module:
    """Build the network that a description names.

    Args:
        description: ``class_path`` and ``init_args``, which may contain further descriptions.

    Raises:
        ValueError: If it is not a description, names anything but a network of :func:`network_makers`, or the network
            cannot be built.
    """
    network = _made(network_makers(), description, "network", _REMEDY)
    if not isinstance(network, nn.Module):
        raise ValueError(f"cannot be rebuilt ({description['class_path']} does not make a network)")
    return network


def rebuild_scheme(description: Any) -> QuantScheme:
    """Build the quantization scheme that a description names.

    Args:
        description: ``class_path`` and ``init_args`` of a scheme; see :func:`rebuild`.

    Raises:
        ValueError: As for :func:`rebuild`, where the quantizers that were imported are allowed.
    """
    remedy = f"import its module first, {_REMEDY}"
    scheme = _made(quantizer_makers(), description, "quantization scheme", remedy)
    if not isinstance(scheme, QuantScheme):
        raise ValueError(f"cannot be rebuilt (its quantization scheme is a {type(scheme).__name__})")
    return scheme


def _made(makers: Mapping[str, Maker], description: Any, what: str, remedy: str) -> Any:
    if not isinstance(description, Mapping) or not isinstance(description.get("class_path"), str):
        raise ValueError(f"the checkpoint does not say how to rebuild its {what}: {_REMEDY}")
    check_plain(description)

    def make(part: Mapping[str, Any]) -> Any:
        name, arguments = part.get("class_path"), part.get("init_args") or {}
        name = renamed.class_path(name) if isinstance(name, str) else name
        if not isinstance(name, str) or name not in makers:
            raise ValueError(f"the checkpoint names the {what} {name}, which qra does not know: {remedy}")
        if not isinstance(arguments, Mapping):
            raise ValueError(f"the arguments of {name} are not a mapping")
        return makers[name](**{key: argument(value) for key, value in arguments.items()})

    def argument(value: Any) -> Any:
        if isinstance(value, Mapping):
            return make(value) if "class_path" in value else {key: argument(item) for key, item in value.items()}
        if type(value) is int and abs(value) > LARGEST:
            raise ValueError(f"it holds a number beyond {LARGEST:,}")
        return [argument(item) for item in value] if isinstance(value, list | tuple) else value

    try:
        with _Limits():
            return make(description)
    except Exception as reason:
        raise ValueError(f"cannot be rebuilt ({one_line(reason)[:300] or type(reason).__name__})") from None


def check_plain(value: Any) -> None:
    """Check that a description has only plain values and is not larger than a description can be.

    Raises:
        ValueError: If it does not; the message says what is wrong.
    """
    if is_deeper(value, DEPTH):
        raise ValueError(f"cannot be rebuilt (its description nests deeper than {DEPTH})")
    inside = [value]
    for count, item in enumerate(inside):
        if count > 100 * LENGTH or (isinstance(item, dict | list | tuple | str) and len(item) > LENGTH):
            raise ValueError("cannot be rebuilt (its description is too large)")
        if isinstance(item, dict):
            inside += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            inside += item
        elif not (item is None or isinstance(item, str | int | float)):
            raise ValueError(f"cannot be rebuilt (its description holds a {type(item).__name__}, not a plain value)")


class _Limits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Stops the building of a network that would take more memory or operations than any real one."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._bytes = self._steps = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._steps += 1
        if args and isinstance(args[0], list | tuple | torch.Size) and all(isinstance(n, int) for n in args[0]):
            needed = 4
            for length in args[0]:
                needed *= length
            self._bytes += needed
        if self._bytes > _MEMORY or self._steps > _STEPS:
            raise ValueError("it would be larger than any network")
        return func(*args, **(kwargs or {}))
