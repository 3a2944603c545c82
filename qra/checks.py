"""Range checks of settings, with messages that name the setting, its value and what is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, get_args

from qra.types import Norm, parse_pixels

_INTERVAL = re.compile(r"([\[(])(\S+), (\S+)([\])])")


def check_in(name: str, value: float, interval: str) -> None:
    """Check that a number lies in an interval; NaN lies in none.

    Args:
        name: Name of the setting.
        value: The number.
        interval: Such as ``(0, 1]`` for above 0 and at most 1, or ``[0, inf)`` for finite and at least 0.

    Raises:
        ValueError: If it does not.
    """
    match = _INTERVAL.fullmatch(interval)
    assert match is not None, interval
    low, high = float(match[2]), float(match[3])
    above = value > low if match[1] == "(" else value >= low
    below = value < high if match[4] == ")" else value <= high
    if not (above and below):
        lowest = f"{'above' if match[1] == '(' else 'at least'} {match[2]}"
        highest = "finite" if high == math.inf else f"{'below' if match[4] == ')' else 'at most'} {match[3]}"
        raise ValueError(f"{name} is {value}: it must be {lowest} and {highest}")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Check that a value is a whole number of at least ``least``.

    Raises:
        ValueError: If ``value`` is not.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}: it must be a whole number, at least {least}")
    if value < least:
        raise ValueError(f"{name} is {value}: it must be at least {least}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Check that a word is one of the choices.

    Raises:
        ValueError: If ``value`` is not one of them.
    """
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: choose one of {', '.join(choices)}")


def pixel_length(name: str, value: float, norm: Norm) -> float:
    """Return a length in pixel units from a number or a fraction such as ``8/255``.

    Raises:
        ValueError: If it is not a possible length in this norm: negative, not finite, or above 1 in L-inf.
    """
    value = parse_pixels(value)
    check_in(name, value, "[0, inf)")
    if norm == "linf" and value > 1:
        grey_levels = value <= 255 and (2 * value).is_integer()
        meant = f"did you mean {value:g}/255?" if grey_levels else "choose at most 1"
        raise ValueError(f"{name} is {value:g}, but pixels are in [0, 1]: {meant}")
    return value


def check_attack(attack: Any, *counts: str) -> None:
    """Check the norm, the counts and the radius of an attack, and replace a radius given as a fraction by a number.

    Args:
        attack: A frozen dataclass with fields or attributes ``norm`` and ``eps``.
        counts: Names of the fields that must be whole numbers of at least 1.

    Raises:
        ValueError: If a setting is out of range.
    """
    check_choice("norm", attack.norm, get_args(Norm))
    for name in counts:
        check_count(name, getattr(attack, name))
    object.__setattr__(attack, "eps", pixel_length("eps", attack.eps, attack.norm))
