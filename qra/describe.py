"""Objects that say how they were made: a class path and plain arguments, as a config has them.

Checkpoints and result files hold such descriptions instead of pickled objects.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def described(cls: type[Network]) -> type[Network]:
    """Class decorator: an instance keeps its ``class_path`` and ``init_args`` in ``description``."""
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
            return  # a part that cannot be described leaves the whole without description
        vars(self)["description"] = {"class_path": class_path(cls), "init_args": init_args}

    cls.__init__ = describing_init  # type: ignore[method-assign]
    return cls


def describe(value: Any) -> Any:
    """Turn a described network, a dataclass object or a plain value into what JSON and YAML can hold.

    Returns:
        ``{"class_path": ..., "init_args": {...}}`` for objects, a list for a tuple or list, plain values as they are,
        and None for a network that is not described.
    """
    if isinstance(value, nn.Module):
        return getattr(value, "description", None)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        arguments = {field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"class_path": class_path(type(value)), "init_args": arguments}
    return [describe(item) for item in value] if isinstance(value, tuple | list) else value


def without_empty(description: Any) -> Any:
    """A description without empty lists and mappings: so later versions say what earlier ones did not know."""
    if isinstance(description, dict):
        return {key: without_empty(value) for key, value in description.items() if value not in ({}, [])}
    return [without_empty(item) for item in description] if isinstance(description, list) else description


def digest(description: Any) -> str:
    """A hash of what JSON can hold, hexadecimal."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def differences(before: Any, now: Any, name: str = "", shared: bool = False) -> Iterator[str]:
    """Where two descriptions or settings differ, in words.

    Args:
        before: Nested mappings and plain values. What only one of the two has is no difference where it is empty.
        now: The present ones.
        name: Name of what they describe.
        shared: Whether only keys count that both have; others were introduced or dropped by another version.
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
    """The path by which users import a class: that of its package if the package exports it."""
    package = cls.__module__.rpartition(".")[0]
    exported = getattr(sys.modules.get(package), cls.__qualname__, None)
    return f"{package if exported is cls else cls.__module__}.{cls.__qualname__}"
