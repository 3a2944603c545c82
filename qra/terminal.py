"""Printing of tables to terminals and log files without cutting them off."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


def print_table(table: Table) -> None:
    """Print a table so that every number is readable, however narrow the terminal is.

    Columns of numbers keep their width and columns of words wrap. On a terminal that is still too narrow, lines are
    broken; a log file gets the width that the table needs, up to 160 columns.
    """
    for column in table.columns:
        if column.justify == "right":
            column.no_wrap = True
            column.min_width = max(map(len, map(str, [*column._cells, column.footer])), default=0)
        else:
            column.overflow = "fold"
    console = Console()
    needed = Measurement.get(console, console.options.update(width=1000), table)
    width = max(console.width, needed.minimum) if console.is_terminal else max(console.width, min(needed.maximum, 160))
    Console(width=width).print(table)
