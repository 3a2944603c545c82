"""Version and commit of this program; imports nothing heavy, so that ``qra --version`` answers at once."""

from __future__ import annotations

import subprocess
from pathlib import Path

__version__ = "0.2.0"

DISTRIBUTION = "quantization-robustness"
"""Name of the distribution for ``pip install``; ``qra`` on the package index is another project."""

BUILT_FROM = "commit.txt"
"""File in an installed package that holds the commit it was built from."""


def commit() -> str | None:
    """Return the git commit of this source tree, or else that from which the package was built.

    Returns:
        The hash, with ``-dirty`` if the source tree was changed; None if the commit is not known.
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
    """Return the command that installs an optional extra of this package.

    Args:
        name: Name of the extra, as in ``setup.cfg``.
    """
    return f"pip install '{DISTRIBUTION}[{name}]'"


def version_line() -> str:
    """Return the line that ``qra --version`` prints."""
    found = commit()
    return f"qra {__version__}" + (f" (commit {found[:12]}{'-dirty' * found.endswith('-dirty')})" if found else "")
