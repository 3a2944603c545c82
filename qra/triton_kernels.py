"""Import of modules with Triton kernels, which are not available in every installation of torch."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType


@cache
def kernels_of(name: str) -> ModuleType | None:
    """Import a module of kernels by its name; return None if Triton is missing."""
    try:
        return import_module(name)
    except ImportError:
        return None
