"""Tables are never cut, on a narrow terminal or in a log file."""

import io
import sys

import pytest
import rich
from rich.console import Console
from rich.file_proxy import FileProxy
from rich.progress import Progress
from rich.table import Table

from qra.terminal import console, print_table


def table():
    result = Table(show_footer=True)
    result.add_column("layer", "whole network")
    for title in ("weight bits", "parameters", "10⁶ BitOPs"):
        result.add_column(title, "41,263,104.5", justify="right")
    result.add_row("a.very.long.name.of.a.layer.deep.inside.of.a.network.conv1", "4", "12,345,678", "1,234,567.8")
    return result


@pytest.mark.parametrize("columns", ["40", "80", "200"])
@pytest.mark.parametrize("terminal", [True, False])
def test_numbers_and_totals_are_whole_at_any_width(columns, terminal, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    print_table(table())
    shown = capsys.readouterr().out
    assert shown.count("41,263,104.5") == 3
    assert "1,234,567.8" in shown
    assert "…" not in shown


def test_names_of_layers_stay_on_a_narrow_terminal_and_titles_wrap(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    print_table(table())
    shown = capsys.readouterr().out
    assert "│ a.very.long." in shown
    assert "weight bits" not in shown


def test_what_is_printed_stands_above_a_bar(monkeypatch):
    with Progress(console=Console(file=io.StringIO(), force_terminal=True)) as bar:
        monkeypatch.setattr(rich, "get_console", lambda: bar.console)
        assert isinstance(sys.stdout, FileProxy)
        assert console() is bar.console  # which moves the bar below; any other console would write over it
    assert console() is not bar.console
