"""Printing to terminals and log files: tables are never cut off, and progress bars stay below what is printed."""

from __future__ import annotations

import sys

import rich
from rich.console import Console, RenderableType
from rich.file_proxy import FileProxy
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

SHORTEST = 12
"""Number of characters of a column of words that stay in one line, however narrow the terminal is."""


def console() -> Console:
    """Return a console to print on: the one of a progress bar that is shown, which would overwrite any other."""
    return rich.get_console() if isinstance(sys.stdout, FileProxy) else Console()


def print_table(table: Table) -> None:
    """Print a table so that every number is readable, however narrow the terminal is.

    Columns of numbers keep the width of their numbers, while their titles and columns of words wrap. On a terminal that
    is still too narrow, lines are broken; a log file gets the width that the table needs, up to 160 columns.
    """
    target = console()
    width = target.width if target.is_terminal else max(target.width, 160)
    is_wide = _natural(target, table) > width
    for column in table.columns:
        if column.justify == "right":
            column.header = Text("\n".join(_text(column.header).split())) if is_wide else column.header
            column.no_wrap = True
            column.min_width = _longest(column)
        else:
            column.overflow = "fold"
            column.min_width = min(_longest(column), SHORTEST)
    borders = 3 * len(table.columns) + 1
    narrowest = borders + sum(column.min_width or 0 for column in table.columns)
    table.width = min(_natural(target, table), max(width, narrowest))
    target.print(table, crop=False)


def _natural(target: Console, table: Table) -> int:
    return Measurement.get(target, target.options.update(width=1000), table).maximum


def _longest(column: Column) -> int:
    cells = (column.header, *column._cells, column.footer)
    return max(len(line) for cell in cells for line in _text(cell).split("\n"))


def _text(cell: RenderableType) -> str:
    return (cell if isinstance(cell, Text) else Text.from_markup(str(cell))).plain
