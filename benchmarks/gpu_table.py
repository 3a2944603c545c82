"""A table of the measurements of ``gpu.sh``: goals, hits and misses, with hardware and versions."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

Rows = list[dict[str, Any]]


def main(directory: Path) -> None:
    found = {path.stem: json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))}
    table = Table(title="goals on one GPU", box=box.MARKDOWN)
    for column in ("what", "measured", "goal", ""):
        table.add_column(column)
    for what, (measured, goal, at_most) in goals({name: part["rows"] for name, part in found.items()}):
        verdict = "hit" if (measured <= goal if at_most else measured >= goal) else "MISS"
        table.add_row(what, f"{measured:.3g}", f"{'≤' if at_most else '≥'} {goal:g}", verdict)
    console = Console(width=120)
    console.print(table)
    for name, part in found.items():
        figures = Table(title=name, box=box.MARKDOWN, caption="\n".join(part["notes"]), caption_justify="left")
        for column in part["rows"][0]:
            figures.add_column(column)
        for row in part["rows"]:
            figures.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
        console.print(figures)
    if found:
        sheet = next(iter(found.values()))["environment"]
        console.print(f"{sheet['device']}, {sheet['versions']}, {sheet['commit']}", highlight=False)
    print("parts with figures:", ", ".join(found) or "none")


def goals(parts: dict[str, Rows]) -> Iterator[tuple[str, tuple[float, float, bool]]]:
    """Yield the measurement of each goal, the goal, and whether it is an upper bound; skip those without figures."""
    for what, measure, goal, at_most in GOALS:
        try:
            yield what, (measure(parts), goal, at_most)
        except (KeyError, StopIteration, IndexError):
            continue


def pick(parts: dict[str, Rows], part: str, value: str, **where: Any) -> float:
    """Return a value of the first row of a part whose other values are as given."""
    return next(float(row[value]) for row in parts[part] if all(row[key] == is_ for key, is_ in where.items()))


def epoch(name: str, part: str = "epochs") -> Callable[[dict[str, Rows]], float]:
    return lambda parts: pick(parts, part, "seconds", pipeline=name)


def pgd(part: str, precision: str = "") -> Callable[[dict[str, Rows]], float]:
    return lambda parts: pick(parts, part, "ratio", attack=f"qra PGD, frozen{precision}")


def autoattack_to_theirs(part: str) -> Callable[[dict[str, Rows]], float]:
    theirs = "pyautoattack"
    return lambda parts: pick(parts, "autoattack", "seconds", code=theirs) / pick(parts, part, "seconds", code="qra")


def autoattack_to_floor(part: str) -> Callable[[dict[str, Rows]], float]:
    return lambda parts: pick(parts, part, "time / that", code="qra")


GOALS: list[tuple[str, Callable[[dict[str, Rows]], float], float, bool]] = [
    ("plain epoch without validation, bf16 (s)", epoch("plain", "plain"), 1.5, True),
    ("PGD-10 AT epoch without validation, bf16 (s)", epoch("PGD-10 AT"), 4.5, True),
    ("PGD-10 AT epoch without validation, bf16, batch 512 (s)", epoch("PGD-10 AT", "epochs512"), 2.5, True),
    (
        "W4A4 PGD-10 AT epoch, to the float one",
        lambda parts: epoch("W4A4 PGD-10 AT")(parts) / epoch("PGD-10 AT")(parts),
        1.3,
        True,
    ),
    ("PGD at batch 128, to torchattacks, float32", pgd("pgd128"), 2.5, False),
    ("PGD at batch 128, to torchattacks, bf16 search, compiled", pgd("pgd128", ", compiled, bfloat16"), 6, False),
    ("AutoAttack on 250, to pyautoattack, float32", autoattack_to_theirs("autoattack"), 4, False),
    ("AutoAttack on 250, to pyautoattack, bf16 search, compiled", autoattack_to_theirs("autoattack-bf16"), 8, False),
    ("AutoAttack on 250, float32, to the floor of its passes", autoattack_to_floor("autoattack"), 1.3, True),
    ("AutoAttack on 250, bf16 search, compiled, to that floor", autoattack_to_floor("autoattack-bf16"), 1.3, True),
]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
