"""Configs named in studies, read together with the configs that they name."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

from qra.front.shipped import located
from qra.front.yaml_files import is_config, read_yaml


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
        return contents(os.path.normpath(Path(path).parent / value)) if is_config(value) else value

    return resolved(read_yaml(path))
