"""Labels that fit into a figure and still tell one thing from another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

LONGEST = 90
"""Letters of a label."""
_NUMBERED = LONGEST - len(" (999)")


def shortened(labels: Sequence[str]) -> list[str]:
    """Labels of at most ``LONGEST`` letters, all different.

    Long ones are cut at their end or, where that leaves two alike, in the middle; what is still alike is numbered.

    Args:
        labels: A label for each thing.
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
    """A label without its middle, or its end if all the letters that stay are at the start."""
    return label if len(label) <= longest else f"{label[:start]}…{label[len(label) - (longest - 1 - start) :]}"
