"""Depth and size of nested values from untrusted files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def is_deeper(content: Any, depth: int) -> bool:
    """Return whether the mappings, lists and tuples of ``content`` are nested more than ``depth`` deep."""
    level = [content]
    for _ in range(depth + 1):
        once = {id(item): item for item in level if isinstance(item, _CONTAINERS)}  # a pickle can repeat one for free
        level = [value for item in once.values() for value in _values(item)]
        if not level:
            return False
    return True


def is_larger(content: Any, most: int) -> bool:
    """Return whether mappings, lists and tuples of ``content`` have over ``most`` entries, counting repeated ones."""
    count, inside = 0, [content] if isinstance(content, _CONTAINERS) else []
    while inside and count <= most:
        item = inside.pop()
        count += len(item)
        inside += [value for value in _values(item) if isinstance(value, _CONTAINERS)]
    return count > most


_CONTAINERS = (dict, list, tuple)


def _values(item: Any) -> Iterable[Any]:
    return item.values() if isinstance(item, dict) else item
