"""How deep and how large values are that lie in one another, as untrusted files hold them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def is_deeper(content: Any, depth: int) -> bool:
    """Whether mappings, lists and tuples of ``content`` lie in one another more than ``depth`` deep."""
    level = [content]
    for _ in range(depth + 1):
        once = {id(item): item for item in level if isinstance(item, _CONTAINERS)}  # a pickle may repeat one for free
        level = [value for item in once.values() for value in _values(item)]
        if not level:
            return False
    return True


def is_larger(content: Any, most: int) -> bool:
    """Whether mappings, lists and tuples of ``content`` have more than ``most`` entries, one that repeats each time."""
    count, inside = 0, [content] if isinstance(content, _CONTAINERS) else []
    while inside and count <= most:
        item = inside.pop()
        count += len(item)
        inside += [value for value in _values(item) if isinstance(value, _CONTAINERS)]
    return count > most


_CONTAINERS = (dict, list, tuple)


def _values(item: Any) -> Iterable[Any]:
    return item.values() if isinstance(item, dict) else item
