"""Tables on a terminal and in log files, never cut."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


def print_table(table: Table) -> None:
    """Print a table so that each number can be read, however narrow the terminal is.

    Columns of numbers keep their width and columns of words wrap. A terminal that is still too narrow breaks lines,
    and a log file gets the width that the table needs.
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
