"""Which settings may carry the name of a published protocol, and the titles of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qra.attacks import AutoAttack

AUTOATTACK = "AutoAttack"
"""Name of the standard version of Croce and Hein 2020."""
_FREE = ("eps", "norm", "seed")
"""Settings that the protocol leaves open."""


def autoattack_changes(init_args: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the settings that differ from standard AutoAttack, in words such as ``20 steps``.

    Args:
        init_args: Settings of an AutoAttack; missing ones have the standard value.
    """
    standard = vars(AutoAttack())
    found = {name: init_args.get(name, value) for name, value in standard.items() if name not in _FREE}
    return tuple(f"{value} {name}" for name, value in found.items() if value != standard[name])


def autoattack_names(init_args: Mapping[str, Any], search_precision: str = "float32") -> tuple[str, str]:
    """Return the published protocol of an AutoAttack, empty if it is not standard, and its display name.

    Args:
        init_args: Settings of the attack.
        search_precision: Precision of the attack's computations; the standard version uses float32.
    """
    changes = autoattack_changes(init_args)
    if changes:
        return "", f"shortened AutoAttack ({', '.join(changes)})"
    return (AUTOATTACK if search_precision == "float32" else ""), AUTOATTACK
