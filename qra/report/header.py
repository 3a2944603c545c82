"""The header of a report: data, network, number of examples, seeds and dates of the study, from its files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from qra.coordinates import Axis
from qra.files import plain
from qra.report.cells import CellResult
from qra.report.labels import span
from qra.report.results import Results

MADE_UP = (
    "Synthetic images: this report shows that the software works and what its reports look like. It says nothing about "
    "networks on photographs."
)
_LONGEST = 60
"""Maximum number of characters taken from a file's text, so that it fits on a line."""


class Fact(NamedTuple):
    """A line of the header.

    Attributes:
        name: Name of the fact.
        text: The fact.
    """

    name: str
    text: str


def header(results: Results) -> tuple[Fact, ...]:
    """Return data, network, examples, seeds and dates of the cells that are done, as far as files tell."""
    seeds = sorted(
        {str(cell.coordinates[Axis.SEED])[:_LONGEST] for cell in results.done if Axis.SEED in cell.coordinates},
        key=_natural,
    )
    dates = sorted({str(cell.sheet["date"])[:10] for cell in results.done if "date" in cell.sheet})
    facts = (
        Fact("data", _listed(map(_data, results.done))),
        Fact("network", _listed(map(_network, results.done))),
        Fact("test images", _examples(results)),
        Fact("seeds", f"{len(seeds)} ({', '.join(seeds[:8])}{', …' if len(seeds) > 8 else ''})" if seeds else ""),
        Fact("date", " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else ""),
    )
    return tuple(Fact(name, plain(text)) for name, text in facts if text)


def is_made_up(results: Results) -> bool:
    """Return whether any cell used synthetic images."""
    return any(_says_made_up(cell.about("data")) for cell in results.cells)


def _says_made_up(data: Mapping[str, Any]) -> bool:
    known = data.get("made_up")
    return known is True or (known is None and data.get("class") == "SyntheticDataModule")  # in earlier versions


def _data(cell: CellResult) -> str:
    data = cell.about("data")
    if "class" not in data:
        return ""
    name = str(data["class"]).removesuffix("DataModule")[:_LONGEST]
    made_up = ", synthetic images" if _says_made_up(data) and name != "Synthetic" else ""
    return f"{name}{made_up} ({str(data.get('sha256', ''))[:8]})"


def _network(cell: CellResult) -> str:
    """Return the class of the network with its scalar arguments and size, such as ``ResNet20``."""
    found = cell.about("architecture")
    if not found:
        return ""
    name = str(found.get("class_path", "")).rpartition(".")[2]
    given = found.get("init_args")
    pairs = given.items() if isinstance(given, dict) else ()
    words = [f"{key} {value}" for key, value in pairs if type(value) in (int, float, str)]
    parameters = cell.cost.get("parameters")
    size = f", {parameters:,.0f} parameters" if parameters else ""
    return f"{name} ({', '.join(words)})"[:_LONGEST].replace(" ()", "") + size


def _examples(results: Results) -> str:
    clean = [cell.clean.accuracy.n for cell in results.done if cell.clean is not None]
    attacked = [each.accuracy.n for cell in results.done for each in cell.robust.values()]
    parts = [(clean, "clean"), (attacked, "attacked")]
    return ", ".join(f"{span(counts)} {word}" for counts, word in parts if counts)


def _listed(texts: Iterable[str]) -> str:
    """Join distinct texts; of many, only the first three."""
    found = [text for text in dict.fromkeys(texts) if text]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return "; ".join(found[:3]) + more


def _natural(text: str) -> tuple[int, str]:
    return (int(text) if text.isdigit() else 0, text)
