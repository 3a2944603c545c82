"""Wording: labels that fit in a figure and stay distinct, and numbers in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

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


def counted(number: int, word: str) -> str:
    """Return a number of things, such as ``1 cell`` or ``3 cells``."""
    return f"1 {word}" if number == 1 else f"{number} {word}s"


def span(counts: Collection[int]) -> str:
    """Return the smallest and the largest of some numbers, such as ``200 to 1,000``."""
    return " to ".join(f"{count:,}" for count in dict.fromkeys((min(counts), max(counts))))


def _cut(label: str, start: int, longest: int) -> str:
    """Return a label with its middle cut out, or its end if ``start`` covers everything that is kept."""
    return label if len(label) <= longest else f"{label[:start]}…{label[len(label) - (longest - 1 - start) :]}"
