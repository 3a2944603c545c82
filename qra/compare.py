"""``qra compare``: the accuracies of several runs, side by side."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from qra.evaluation.outcome import SCHEMA


def read_result(path: str | Path) -> dict[str, Any]:
    """Read a ``result.json``.

    Args:
        path: The file, or the run directory that holds it.

    Raises:
        ValueError: If it is not there, cut short, or of another version.
    """
    file = Path(path) / "result.json" if Path(path).is_dir() else Path(path)
    try:
        result = json.loads(file.read_text())
    except FileNotFoundError:
        raise ValueError(f"{file}: there is no result here; qra test writes one") from None
    except json.JSONDecodeError:
        raise ValueError(f"{file}: is cut short or no JSON; write it again by qra test") from None
    if not isinstance(result, dict) or result.get("schema") != SCHEMA:
        raise ValueError(f"{file}: is no result of schema {SCHEMA}; write it again by qra test")
    return result


def comparison(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row for each outcome, a column for each run: accuracy with its 95 % interval."""
    names = list(dict.fromkeys(name for result in results.values() for name in result["outcomes"]))
    table = Table("outcome", *results, caption="accuracy in % [95 % interval], number of examples")
    for name in names:
        table.add_row(name, *(_cell(result["outcomes"].get(name)) for result in results.values()))
    return table


def _cell(outcome: Mapping[str, Any] | None) -> str:
    if outcome is None:
        return "-"
    low, high = (100 * bound for bound in outcome["interval95"])
    return f"{100 * outcome['accuracy']:.1f} \\[{low:.1f}, {high:.1f}], {outcome['n']}"


def main(arguments: Sequence[str]) -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser("qra compare", description="Accuracies of several runs, side by side.")
    parser.add_argument("run", nargs="+", help="run directory or result.json")
    runs = parser.parse_args(arguments).run
    Console().print(comparison({run: read_result(run) for run in runs}))
