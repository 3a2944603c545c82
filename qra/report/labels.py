"""Labels that fit in a figure and stay distinct."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

LONGEST = 90
"""Maximum number of characters in a label."""
_NUMBERED = LONGEST - len(" (999)")


def shortened(labels: Sequence[str]) -> list[str]:
    """Shorten labels to at most ``LONGEST`` characters while keeping them distinct.

    Long ones are cut at the end or, if that makes two alike, in the middle; any that are still alike are numbered.
    """
    for start in (LONGEST - 1, LONGEST // 2):
        found = [_cut(label, start, LONGEST) for label in labels]
        if len(set(found)) == len(found):
            return found
    total, seen = Counter(found), Counter[str]()
    for place, label in enumerate(found):
        seen[label] += 1
        if total[label] > 1:
            found[place] = f"{_cut(label, _NUMBERED // 2, _NUMBERED)} ({seen[label]})"
    return found


def _cut(label: str, start: int, longest: int) -> str:
    """Return a label with its middle cut out, or its end if ``start`` covers everything that is kept."""
    return label if len(label) <= longest else f"{label[:start]}…{label[len(label) - (longest - 1 - start) :]}"
