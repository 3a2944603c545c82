"""Configs named in studies, read together with the configs that they name."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from qra.front.shipped import located
from qra.front.yaml_files import is_config, read_yaml


def short(path: Path) -> str:
    """Return a path without redundant ``..``, for example ``configs/data`` for ``configs/study/../data``."""
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        else:
            parts.append(part)
    return str(Path(*parts))


@cache
def contents(path: str) -> Any:
    """Return the content of a config, with the paths of other configs in it replaced by their contents.

    Args:
        path: Path of the config, or the name of a shipped one.
    """
    path = located(path)

    def resolved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: resolved(item) for key, item in value.items()}
        if isinstance(value, list):
            return [resolved(item) for item in value]
        return contents(short(Path(path).parent / value)) if is_config(value) else value

    return resolved(read_yaml(path))
