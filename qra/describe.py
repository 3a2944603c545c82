"""Descriptions of how objects were made: a class path and plain arguments, as in a config.

Checkpoints and result files hold such descriptions instead of pickled objects.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import marshal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["describe"]

_LIBRARIES = {*sys.stdlib_module_names, "torch", "torchvision", "numpy", "qra"}

Network = TypeVar("Network", bound=nn.Module)


def described(cls: type[Network]) -> type[Network]:
    """Class decorator that records each instance's ``class_path`` and ``init_args`` in its ``description``."""
    init: Callable[..., None] = cls.__init__
    signature = inspect.signature(init)

    @functools.wraps(init)
    def describing_init(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        values = dict(list(bound.arguments.items())[1:])
        if not all(is_rebuilt(value) for value in values.values()):
            return  # if a part cannot be described, neither can the whole
        init_args = {name: describe(value) for name, value in values.items()}
        vars(self)["description"] = {"class_path": class_path(cls), "init_args": init_args}

    cls.__init__ = describing_init  # type: ignore[method-assign]
    return cls


def describe(value: Any) -> Any:
    """Convert a network, a dataclass object, an attack or a plain value to what JSON and YAML can represent.

    Different values have different descriptions: inside an object, a tensor is described by its shape, type and hash, a
    network by its class and a hash of its weights, a function or class by its path, and a lambda by a hash of its code.

    Returns:
        ``{"class_path": ..., "init_args": {...}}`` for objects, a list for a tuple or list, plain values unchanged, and
        None for a network without a description.

    Raises:
        ValueError: If a value cannot be told from others, such as an object that drops arguments of its constructor.
    """
    return getattr(value, "description", None) if isinstance(value, nn.Module) else _described(value)


def _described(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, tuple | list):
        return [_described(item) for item in value]
    if isinstance(value, Mapping) and all(key is None or isinstance(key, str | int | float) for key in value):
        return {key: _described(item) for key, item in value.items()}
    if isinstance(value, Tensor | np.ndarray):
        tensor = torch.as_tensor(value)
        return {"shape": list(tensor.shape), "dtype": str(tensor.dtype), "sha256": _hash({"": tensor})}
    if isinstance(value, nn.Module):
        return {"class_path": class_path(type(value)), **_structure(value), "sha256": contents_hash(value)}
    if isinstance(value, functools.partial):
        arguments = {"func": value.func, "args": value.args, "keywords": value.keywords}
        return {"class_path": "functools.partial", "init_args": _described(arguments)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.dtype | torch.device | PurePath | Enum):
        return str(value)
    if (path := _import_path(value)) is not None:
        return path
    if inspect.isfunction(value):
        return _described_function(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"class_path": class_path(type(value)), "init_args": kept_arguments(value)}
    if _is_told_by_attributes(value):
        return {"class_path": class_path(type(value)), "init_args": _described(vars(value))}
    raise ValueError(f"results cannot describe {_brief(value)}: give a function, or an object of a dataclass")


def architecture(network: nn.Module) -> Any:
    """Return what tells a network from others with the same weights: its description, or else its structure."""
    found = describe(network)
    return _structure(network) if found is None else found


def _structure(network: nn.Module) -> dict[str, Any]:
    """Return a network as text, and the plain attributes of those of its modules whose text may leave them out."""
    return {
        "text": str(network),
        "attributes": {
            name: {key: _described(value) for key, value in vars(module).items() if _is_setting(key, value)}
            for name, module in network.named_modules()
            if not is_of_library(type(module))
        },
    }


def _is_setting(name: str, value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_setting(name, item) for item in value)
    is_plain = value is None or isinstance(value, str | int | float) or _import_path(value) is not None
    return is_plain and name != "training" and not name.startswith("_")


def is_of_library(code: Any) -> bool:
    """Return whether a class or function belongs to qra or the libraries that it builds on."""
    return (code.__module__ or "builtins").partition(".")[0] in _LIBRARIES


def _import_path(value: Any) -> str | None:
    """Return the path from which a function or class is imported; None if that is none, or leads to another."""
    module = getattr(value, "__module__", None)
    for name in (getattr(value, "__qualname__", ""), getattr(value, "__name__", "")):
        found = sys.modules.get(str(module))
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is value:
            return f"{module}.{name}"
    return None


def _described_function(value: Any) -> dict[str, Any]:
    """Describe a lambda or a function made by another, whose name others may share: by its code and what it keeps."""
    kept = [value.__defaults__, value.__kwdefaults__, [cell.cell_contents for cell in value.__closure__ or ()]]
    code = hashlib.sha256(marshal.dumps(value.__code__, 2)).hexdigest()  # later versions depend on reference counts
    return {"function": f"{value.__module__}.{value.__qualname__}", "code": code, "kept": _described(kept)}


def _is_told_by_attributes(value: Any) -> bool:
    """Return whether an object consists of its attributes, which hold its constructor's arguments and maybe more."""
    kind: Any = type(value)
    if kind.__new__ is not object.__new__ or not hasattr(value, "__dict__"):
        return False  # it may hold what Python does not show
    return set(inspect.signature(kind).parameters) <= set(vars(value))


def kept_arguments(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass object and the constructor arguments kept as attributes, described.

    Raises:
        ValueError: As for :func:`describe`; the message begins with the name of the argument.
    """
    fields = [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
    kept = [name for name in inspect.signature(type(value)).parameters if name in vars(value)]
    found = {}
    for name in dict.fromkeys([*fields, *kept]):
        try:
            found[name] = _described(getattr(value, name))
        except ValueError as reason:
            raise ValueError(f"{name}: {reason}") from None
        except RecursionError:
            raise ValueError(f"{name}: results cannot describe what refers to itself") from None
    return found


def is_rebuilt(value: Any) -> bool:
    """Return whether an object can be made again from its description, as those of a checkpoint are."""
    if isinstance(value, nn.Module):
        return describe(value) is not None
    if isinstance(value, tuple | list):
        return all(map(is_rebuilt, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_rebuilt(item) for key, item in value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return all(is_rebuilt(getattr(value, field.name)) for field in dataclasses.fields(value))
    return value is None or isinstance(value, str | int | float)


def contents_hash(network: nn.Module) -> str:
    """Return a hash of the weights and buffers of a network, including those that its ``state_dict`` omits."""
    return _hash({**network.state_dict(), **dict(network.named_buffers())})


def _hash(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, value in tensors.items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def unrecorded(kind: type, recorded: Collection[str]) -> list[str]:
    """Return the constructor arguments of a class that a record lacks.

    Arguments that a dataclass only passes on (``*args``, ``**kwargs``) end up in its fields.
    """
    parameters = inspect.signature(kind).parameters.values()
    passed_on = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [p.name for p in parameters if p.kind not in passed_on or not dataclasses.is_dataclass(kind)]
    return [name for name in names if name not in recorded]


def without_empty(description: Any) -> Any:
    """Return a description without empty lists and mappings, so that it equals one of an earlier version."""
    if isinstance(description, dict):
        return {key: without_empty(value) for key, value in description.items() if value not in ({}, [])}
    return [without_empty(item) for item in description] if isinstance(description, list) else description


def digest(description: Any) -> str:
    """Return the SHA-256 of a JSON-compatible value, as hexadecimal digits."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def differences(before: Any, now: Any, name: str = "", shared: bool = False) -> Iterator[str]:
    """Yield the differences between two descriptions or settings, in words.

    Args:
        before: Earlier nested mappings and plain values. An empty value is no difference from a missing one.
        now: The current ones.
        name: Name of what they describe.
        shared: Whether to compare only keys that both have; others may come from a different version.
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        if before.get("class_path") == now.get("class_path"):
            for key in {**before, **now}:
                if (key in before and key in now) or not (shared or now.get(key, before.get(key)) in ({}, [])):
                    place = name if key == "init_args" else f"{name}.{key}".lstrip(".")
                    yield from differences(before.get(key), now.get(key), place, shared)
            return
        before, now = before.get("class_path"), now.get("class_path")
    if before != now:
        yield f"{name} was {_brief(before)} and is {_brief(now)}"


def _brief(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def class_path(cls: type) -> str:
    """Return the path by which users import a class: via its package if the package exports it."""
    package = cls.__module__.rpartition(".")[0]
    exported = getattr(sys.modules.get(package), cls.__qualname__, None)
    return f"{package if exported is cls else cls.__module__}.{cls.__qualname__}"
