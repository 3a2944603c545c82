"""Which program this is: its version and commit. Imports nothing, for ``qra --version`` answers at once."""

from __future__ import annotations

import subprocess
from pathlib import Path

__version__ = "0.2.0"

DISTRIBUTION = "quantization-robustness"
"""What ``pip install`` knows this package as; ``qra`` on the package index is another project."""

BUILT_FROM = "commit.txt"
"""File inside an installed package that holds the commit it was built from."""


def commit() -> str | None:
    """The git commit of this source tree, with ``-dirty`` if it was changed, or that which the package was built from.

    Returns:
        None where neither is known.
    """
    package = Path(__file__).parent
    if not (package.parent / ".git").exists():
        built_from = package / BUILT_FROM
        return (built_from.read_text().strip() or None) if built_from.exists() else None
    command = ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def extra(name: str) -> str:
    """The command that installs an optional part of this package.

    Args:
        name: The part, as ``setup.cfg`` calls it.
    """
    return f"pip install '{DISTRIBUTION}[{name}]'"


def version_line() -> str:
    """What ``qra --version`` prints."""
    found = commit()
    return f"qra {__version__}" + (f" (commit {found[:12]}{'-dirty' * found.endswith('-dirty')})" if found else "")
