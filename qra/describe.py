"""Descriptions of how objects were made: a class path and plain arguments, as in a config.

Checkpoints and result files hold such descriptions instead of pickled objects.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

from torch import nn

__all__ = ["describe"]

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
        init_args = {name: describe(value) for name, value in values.items()}
        if any(isinstance(value, nn.Module) and init_args[name] is None for name, value in values.items()):
            return  # if a part cannot be described, neither can the whole
        vars(self)["description"] = {"class_path": class_path(cls), "init_args": init_args}

    cls.__init__ = describing_init  # type: ignore[method-assign]
    return cls


def describe(value: Any) -> Any:
    """Convert a described network, a dataclass object or a plain value to what JSON and YAML can represent.

    Returns:
        ``{"class_path": ..., "init_args": {...}}`` for objects, a list for a tuple or list, plain values unchanged, and
        None for a network without a description.
    """
    if isinstance(value, nn.Module):
        return getattr(value, "description", None)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        arguments = {field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"class_path": class_path(type(value)), "init_args": arguments}
    return [describe(item) for item in value] if isinstance(value, tuple | list) else value


def kept_arguments(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass object and the constructor arguments kept as attributes, described."""
    fields = [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
    kept = [name for name in inspect.signature(type(value)).parameters if name in vars(value)]
    return {name: describe(getattr(value, name)) for name in dict.fromkeys([*fields, *kept])}


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
