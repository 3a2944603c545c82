"""Names from earlier versions, which files and commands may still use; a message says the new name."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

KEYS = {"evaluation.threats": "evaluation.gradients"}
"""New names of config keys."""
CLASSES = {
    "qra.attacks.Hunt": "qra.attacks.EvaluationAttack",
    "qra.attacks.Victim": "qra.attacks.AttackState",
    "qra.modules.transfer": "qra.modules",
    "qra.modules.transfer_losses": "qra.modules",
}
"""New names of classes and of modules of classes."""


@functools.cache
def say(old: str, new: str) -> None:
    """Tell the user, once, that a name has changed."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"qra: {old} is now called {new}: use the new name", file=sys.stderr)


def key(name: str, found: Callable[[str, str], None] = say) -> str:
    """Return the current name of a config key, such as ``evaluation.gradients``; others are returned unchanged.

    Args:
        name: The key, including its parents.
        found: Function called with an old name and its new one.
    """
    if name in KEYS:
        found(name, KEYS[name])
    return KEYS.get(name, name)


def class_path(path: str, found: Callable[[str, str], None] = say) -> str:
    """Return the current path of a class; any other text is returned unchanged.

    Args:
        path: The path.
        found: Function called with an old path and its new one.
    """
    module, _, name = path.rpartition(".")
    new = CLASSES.get(path) or (f"{CLASSES[module]}.{name}" if module in CLASSES else path)
    if new != path:
        found(path, new)
    return new


def present(content: Any, found: Callable[[str, str], None] = say, prefix: str = "") -> Any:
    """Return a config with the current names of its keys and classes.

    Args:
        content: Mappings, lists and plain values.
        found: Function called with an old name and its new one.
        prefix: Key under which the content is found in the config; empty for a whole config.
    """
    if isinstance(content, list):
        return [present(item, found, prefix) for item in content]
    if not isinstance(content, Mapping):
        return class_path(content, found) if isinstance(content, str) else content
    result = {}
    for name, value in content.items():
        place = f"{prefix}.{name}".lstrip(".")
        new = key(place, found)
        result[name if new == place else new.removeprefix(f"{prefix}.")] = present(value, found, place)
    return result
