"""Bit widths of individual layers: parsing a scheme's overrides and matching them to sites."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

Kind = Literal["weight", "activation"]
_TEXT = re.compile(r"(?:W(\d{1,3}))?(?:A(\d{1,3}))?")


class Bits(NamedTuple):
    """Bits of weights and of activations; None where unspecified."""

    weight: int | None
    activation: int | None


def parse_bits(text: str) -> Bits:
    """Parse ``W8A8``, ``W8`` or ``A8``.

    Raises:
        ValueError: If ``text`` has any other form.
    """
    match = _TEXT.fullmatch(text) if isinstance(text, str) and text else None
    if match is None:
        raise ValueError(f"{text!r} is not a bit width: write W8 for weights, A8 for activations, or W8A8 for both")
    weight, activation = (None if digits is None else int(digits) for digits in match.groups())
    return Bits(weight, activation)


def override(overrides: Mapping[str, str], kind: Kind, name: str) -> int | None:
    """Return the bits from the last pattern that matches a site's name and specifies its kind; None if there is none.

    Args:
        overrides: Bits by shell pattern on module names, such as ``{"stages.0.*": "W8A8"}``.
        kind: What is quantized at the site.
        name: Name of the module.
    """
    found = (
        getattr(parse_bits(text), kind) for pattern, text in overrides.items() if fnmatch.fnmatchcase(name, pattern)
    )
    return next((bits for bits in reversed(list(found)) if bits is not None), None)


def check_overrides(overrides: Mapping[str, str], sites: Mapping[Kind, Collection[str]]) -> None:
    """Reject patterns that match no site.

    Args:
        overrides: Bits by shell pattern on module names, see :func:`override`.
        sites: Names of all modules whose weights, or whose activations, can be quantized.

    Raises:
        ValueError: If a pattern matches nothing. The message names the pattern and some of the available modules.
    """
    for pattern, text in overrides.items():
        for kind, names in sites.items():
            if getattr(parse_bits(text), kind) is None or fnmatch.filter(names, pattern):
                continue
            known = ", ".join([*names][:4]) + (", ..." if len(names) > 4 else "")
            there = f"they are named {known}" if known else "there are none"
            plural = "weights" if kind == "weight" else "activations"
            raise ValueError(f"overrides: no {plural} to quantize match {pattern!r} ({text}): {there}")
