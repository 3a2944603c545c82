"""Checks of attack settings."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qra.types import Norm, parse_pixels


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: choose one of {', '.join(choices)}")


def check_count(name: str, value: int, least: int) -> None:
    """Raise ValueError unless ``value`` is a whole number of at least ``least``."""
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}: it must be a whole number, at least {least}")


def pixel_length(name: str, value: float, norm: Norm) -> float:
    """Read a length in pixel units; raise ValueError unless it can be one in this norm."""
    value = parse_pixels(value)
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value:g}: it must be a finite number, at least 0")
    if norm == "linf" and value > 1:
        meant = f"did you mean {value:g}/255?" if value <= 255 else "choose at most 1"
        raise ValueError(f"{name} is {value:g}, but pixels are in [0, 1]: {meant}")
    return value
