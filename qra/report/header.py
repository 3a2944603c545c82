"""The header of a report: data, network, number of examples, seeds and dates of the study, from its files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from qra.coordinates import Axis
from qra.files import plain
from qra.report.cells import CellResult
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
    done = [cell for cell in results.cells if cell.state == "done"]
    seeds = sorted(
        {str(cell.coordinates[Axis.SEED])[:_LONGEST] for cell in done if Axis.SEED in cell.coordinates}, key=_natural
    )
    dates = sorted({str(cell.sheet["date"])[:10] for cell in done if "date" in cell.sheet})
    facts = (
        Fact("data", _listed(map(_data, done))),
        Fact("network", _listed(map(_network, done))),
        Fact("test images", _examples(results)),
        Fact("seeds", f"{len(seeds)} ({', '.join(seeds[:8])}{', …' if len(seeds) > 8 else ''})" if seeds else ""),
        Fact("date", " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else ""),
    )
    return tuple(Fact(name, plain(text)) for name, text in facts if text)


def is_made_up(results: Results) -> bool:
    """Return whether any cell used synthetic images."""
    return any(_says_made_up(_mapping(cell.sheet.get("data"))) for cell in results.cells)


def _says_made_up(data: dict[str, Any]) -> bool:
    known = data.get("made_up")
    return known is True or (known is None and data.get("class") == "SyntheticDataModule")  # in earlier versions


def _data(cell: CellResult) -> str:
    data = _mapping(cell.sheet.get("data"))
    if "class" not in data:
        return ""
    name = str(data["class"]).removesuffix("DataModule")[:_LONGEST]
    made_up = ", synthetic images" if _says_made_up(data) and name != "Synthetic" else ""
    return f"{name}{made_up} ({str(data.get('sha256', ''))[:8]})"


def _network(cell: CellResult) -> str:
    """Return the class of the network with its scalar arguments and size, such as ``ResNet20``."""
    found = cell.sheet.get("architecture")
    if not isinstance(found, dict):
        return ""
    name = str(found.get("class_path", "")).rpartition(".")[2]
    given = _mapping(found.get("init_args"))
    words = [f"{key} {value}" for key, value in given.items() if type(value) in (int, float, str)]
    parameters = cell.cost.get("parameters")
    size = f", {parameters:,.0f} parameters" if parameters else ""
    return f"{name} ({', '.join(words)})"[:_LONGEST].replace(" ()", "") + size


def _examples(results: Results) -> str:
    done = [cell for cell in results.cells if cell.state == "done"]
    clean = [cell.clean.accuracy.n for cell in done if cell.clean is not None]
    attacked = [each.accuracy.n for cell in done for each in cell.robust.values()]
    parts = [(clean, "clean"), (attacked, "attacked")]
    return ", ".join(f"{_range(counts)} {word}" for counts, word in parts if counts)


def _range(counts: Iterable[int]) -> str:
    found = sorted(set(counts))
    return " to ".join(f"{n:,}" for n in dict.fromkeys((found[0], found[-1])))


def _listed(texts: Iterable[str]) -> str:
    """Join distinct texts; of many, only the first three."""
    found = [text for text in dict.fromkeys(texts) if text]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return "; ".join(found[:3]) + more


def _natural(text: str) -> tuple[int, str]:
    return (int(text) if text.isdigit() else 0, text)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
