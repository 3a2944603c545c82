"""Shared code of the scripts that write tables of ``docs/results.md``: its networks, and the place of a table."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/results.md"
PARENT = "float-at"
NETWORKS = {
    "w2a2": ("PACT", "W2A2"),
    "w3a3": ("PACT", "W3A3"),
    "pact-w4a4-at": ("PACT, published", "W4A4"),
    "w8a8": ("PACT", "W8A8"),
    "lsq-w4a4": ("LSQ", "W4A4"),
    "pwlq-w4a4": ("PWLQ", "W4A4"),
    "pwlq-w4a8": ("PWLQ", "W4A8"),
    PARENT: ("the float parent", "W32A32"),
}
"""Quantizer and bit widths, by name of the run directory."""
_END = "<!-- end -->"


def between_marks(page: Path, script: str, lines: Iterable[str]) -> None:
    """Replace the text of a page between the mark of a script and the next end mark.

    Args:
        page: Markdown page.
        script: File name of the script.
        lines: The new lines.

    Raises:
        ValueError: If the page has no such marks.
    """
    before, begin, rest = page.read_text().partition(f"<!-- {script} -->\n")
    _, end, after = rest.partition(_END)
    if not end:
        raise ValueError(f"{page}: has no place for {script}: <!-- {script} --> and, below it, {_END}")
    page.write_text("\n".join([before + begin, *lines, "", end + after]))


def missing(found: Iterable[str]) -> list[str]:
    """Return the lines below a table that name the networks not yet measured; empty if there are none."""
    left = [f"{quantizer} {bits}" for name, (quantizer, bits) in NETWORKS.items() if name not in found]
    return ["", f"Not measured yet: {', '.join(left)}."] if left else []
