"""Modules of Triton kernels, which not every installation of torch can import."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType


@cache
def kernels_of(name: str) -> ModuleType | None:
    """Import a module of kernels by its name; None where Triton is missing."""
    try:
        return import_module(name)
    except ImportError:
        return None
