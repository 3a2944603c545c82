"""Names of earlier versions: files and commands that have them are read, and a line says the new name."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

KEYS = {"evaluation.threats": "evaluation.gradients"}
"""Keys of configs."""
CLASSES = {
    "qra.attacks.Hunt": "qra.attacks.EvaluationAttack",
    "qra.attacks.Victim": "qra.attacks.AttackState",
    "qra.modules.transfer": "qra.modules",
    "qra.modules.transfer_losses": "qra.modules",
}
"""Classes, and modules of classes."""


@functools.cache
def say(old: str, new: str) -> None:
    """Tell a user once that a name is another one now."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"qra: {old} is called {new} now: write that", file=sys.stderr)


def key(name: str, found: Callable[[str, str], None] = say) -> str:
    """The present name of a key of a config, such as ``evaluation.gradients``; any other as it is.

    Args:
        name: The key, with those above it.
        found: Called with an old name and the new one.
    """
    if name in KEYS:
        found(name, KEYS[name])
    return KEYS.get(name, name)


def class_path(path: str, found: Callable[[str, str], None] = say) -> str:
    """The present path of a class; any other text as it is.

    Args:
        path: The path.
        found: Called with an old path and the new one.
    """
    module, _, name = path.rpartition(".")
    new = CLASSES.get(path) or (f"{CLASSES[module]}.{name}" if module in CLASSES else path)
    if new != path:
        found(path, new)
    return new


def present(content: Any, found: Callable[[str, str], None] = say, prefix: str = "") -> Any:
    """A config with the present names of its keys and classes.

    Args:
        content: Mappings, lists and plain values.
        found: Called with an old name and the new one.
        prefix: Key at which it stands; empty for a whole config.
    """
    if isinstance(content, Mapping):
        places = {name: f"{prefix}.{name}".lstrip(".") for name in content}
        new = {name: key(place, found) for name, place in places.items()}
        return {
            name if new[name] == places[name] else new[name].removeprefix(f"{prefix}."): present(value, found, place)
            for (name, value), place in zip(content.items(), places.values(), strict=True)
        }
    if isinstance(content, list):
        return [present(item, found, prefix) for item in content]
    return class_path(content, found) if isinstance(content, str) else content
