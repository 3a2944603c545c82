"""Which settings may bear the name of a published protocol, and what to call the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qra.attacks import AutoAttack

AUTOATTACK = "AutoAttack"
"""Croce and Hein 2020, the standard version."""
_FREE = ("eps", "norm", "seed")
"""Settings that the protocol leaves open."""


def autoattack_changes(init_args: Mapping[str, Any]) -> tuple[str, ...]:
    """What is set otherwise than in the standard version of AutoAttack, in words such as ``20 steps``.

    Args:
        init_args: Settings of an AutoAttack; those that are missing are the standard's.
    """
    standard = vars(AutoAttack())
    found = {name: init_args.get(name, value) for name, value in standard.items() if name not in _FREE}
    return tuple(f"{value} {name}" for name, value in found.items() if value != standard[name])


def autoattack_names(init_args: Mapping[str, Any], search_precision: str = "float32") -> tuple[str, str]:
    """The protocol that an AutoAttack is, empty if it is none, and its title for people.

    Args:
        init_args: Settings of the attack.
        search_precision: What it computes in; the standard version is of float32.
    """
    changes = autoattack_changes(init_args)
    if changes:
        return "", f"shortened AutoAttack ({', '.join(changes)})"
    return (AUTOATTACK if search_precision == "float32" else ""), AUTOATTACK
