"""What is public: the parts of qra that say what they export."""

import re
from functools import cache
from importlib import import_module
from pathlib import Path

import qra

ROOT = Path(qra.__file__).parents[1]


@cache
def exporting() -> dict[str, tuple[str, ...]]:
    """The names that each package and module of the first level exports, ``qra`` itself first."""
    files = [*(ROOT / "qra").glob("*.py"), *(ROOT / "qra").glob("*/__init__.py")]
    saying = [file for file in files if re.search(r"^__all__ = ", file.read_text(), re.MULTILINE)]
    names = sorted(_module(file) for file in saying)
    return {name: tuple(import_module(name).__all__) for name in names}


def _module(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")
