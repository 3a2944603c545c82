"""Objects that say how they were made: a class path and plain arguments, as a config has them.

Checkpoints and result files hold such descriptions instead of pickled objects.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)
Made = TypeVar("Made")

TRUSTED_PACKAGES = ("qra", "torch", "torchvision")
"""Packages whose classes a checkpoint may name. Quantizers may be of any module that was imported before; a network of
another package must be passed in by the caller."""


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
        vars(self)["description"] = {"class_path": _class_path(cls), "init_args": init_args}

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
        return {"class_path": _class_path(type(value)), "init_args": arguments}
    return [describe(item) for item in value] if isinstance(value, tuple | list) else value


def _class_path(cls: type) -> str:
    """The path by which users import a class: that of its package if the package exports it."""
    package = cls.__module__.rpartition(".")[0]
    exported = getattr(sys.modules.get(package), cls.__qualname__, None)
    return f"{package if exported is cls else cls.__module__}.{cls.__qualname__}"


def rebuild(description: Mapping[str, Any] | None) -> nn.Module:
    """Make the network that a description names.

    Args:
        description: ``class_path`` and ``init_args``, the latter possibly with descriptions inside.

    Raises:
        ValueError: If it is no complete description, or names anything but a network of the trusted packages (a
            checkpoint is an untrusted file: what it names is imported and called).
    """
    return rebuild_as((nn.Module,), description, "network")


def rebuild_as(kinds: tuple[type[Made], ...], description: Mapping[str, Any] | None, what: str) -> Made:
    """Make the object that a description names, and those inside it.

    Args:
        kinds: The classes that it may name, subclasses included.
        description: As for :func:`rebuild`.
        what: The object in plain words, for messages.

    Raises:
        ValueError: As for :func:`rebuild`.
    """
    class_path = description.get("class_path") if isinstance(description, Mapping) else None
    if description is None or not isinstance(class_path, str):
        raise ValueError(f"the checkpoint does not say how to rebuild its {what}: pass the network yourself")
    arguments = {
        key: rebuild_as(kinds, value, what) if isinstance(value, Mapping) else value
        for key, value in (description.get("init_args") or {}).items()
    }
    return _factory(kinds, class_path, what)(**arguments)


def _are_own(kinds: tuple[type, ...]) -> bool:
    """Whether only subclasses of this package's own classes count, such as quantizers.

    What derives from those was written for this package: once the program has imported it, naming it runs nothing new.
    """
    return all(_package(kind.__module__) == _package(__name__) for kind in kinds)


def _package(module: str) -> str:
    return module.partition(".")[0]


def _factory(kinds: tuple[type[Made], ...], class_path: str, what: str) -> Callable[..., Made]:
    """Import a class of the given kinds, or a function annotated to return one; refuse everything else."""
    module, _, name = class_path.rpartition(".")
    if _package(module) not in TRUSTED_PACKAGES and not (_are_own(kinds) and module in sys.modules):
        remedy = f"import {module} first" if _are_own(kinds) else "build it and pass the network yourself"
        raise ValueError(
            f"the checkpoint names the {what} {class_path}, which is outside {', '.join(TRUSTED_PACKAGES)}: "
            f"if you trust it, {remedy}"
        )
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise ValueError(f"the checkpoint names the {what} {class_path}, which cannot be imported") from None
    made = factory if inspect.isclass(factory) else typing.get_type_hints(factory).get("return")
    if not (inspect.isclass(made) and issubclass(made, kinds)):
        raise ValueError(f"the checkpoint names {class_path} as its {what}, which makes no {what}")
    return typing.cast(Callable[..., Made], factory)
