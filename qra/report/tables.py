"""Tables that can be written as Markdown, CSV, LaTeX and HTML."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table as TerminalTable
from rich.text import Text

from qra.durations import duration
from qra.evaluation.measured import Accuracy
from qra.evaluation.seeds import MANY
from qra.files import no_formula, plain


@dataclass(frozen=True)
class Number:
    """A number and how it is shown; CSV has all its digits.

    Args:
        value: The number; None if it is unknown.
        digits: Number of decimals.
        signed: Whether to show a plus sign.
    """

    value: float | None
    digits: int = 1
    signed: bool = False


@dataclass(frozen=True)
class Time:
    """A duration, shown in readable units; CSV has it in seconds.

    Args:
        seconds: Duration in seconds; None if it is unknown.
    """

    seconds: float | None


Entry = str | Accuracy | Number | Time

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # at the start of a row it would begin an optional argument of the row break before it
}
_MARKDOWN = re.compile(r"([\\`*_~|<>\[\]&$@#]|:(?=//)|(?<=www)\.)")
"""Characters that format, link or start formulas in Markdown, including GitHub's."""
_INTERVAL, _SMALL = re.compile(r"(\[[\d.]+, [\d.]+\])"), r'<span class="interval">\1</span>'
"""The interval of an accuracy, which narrow screens show below it."""


@dataclass(frozen=True)
class Table:
    """Rows under column titles.

    Args:
        name: Name of its files, without suffix.
        title: One-line title for people.
        columns: Title of each column.
        rows: Rows, with as many entries as there are columns.
        note: What a reader must know to understand it.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), f"{self.name}: a row has other columns"

    @property
    def entries(self) -> list[tuple[Entry, ...]]:
        """The entries of each column."""
        return list(zip(*self.rows, strict=True)) if self.rows else [()] * len(self.columns)

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Whether each column holds numbers."""
        return tuple(any(not isinstance(entry, str) for entry in column) for column in self.entries)

    def _written(self, escape: Callable[[str], str]) -> tuple[list[str], list[list[str]]]:
        """Return titles and rows as text; if all accuracies in a column have the same n, only the title says it."""
        sizes = [{entry.n for entry in column if isinstance(entry, Accuracy)} for column in self.entries]
        shared = [found.pop() if len(found) == 1 else None for found in sizes]
        titles = zip(self.columns, shared, strict=True)
        return (
            [escape(title if n is None else f"{title} (n={n})") for title, n in titles],
            [[_shown(entry, escape, n is None) for entry, n in zip(row, shared, strict=True)] for row in self.rows],
        )

    def markdown(self) -> str:
        """Return the table as a Markdown pipe table."""
        rule = ["---:" if number else "---" for number in self.numeric]
        titles, rows = self._written(markdown_text)
        lines = (titles, rule, *rows)
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def csv(self) -> str:
        """Return the table as CSV with all digits.

        Accuracies are in percent, in four or five columns: value, low, high, n and, over seeds, the worst.
        """
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        spread = [_spread(title, column) for title, column in zip(self.columns, self.entries, strict=True)]
        writer.writerow(no_formula(plain(title)) for titles, _ in spread for title in titles)
        for row in zip(*(values for _, values in spread), strict=True):
            writer.writerow(value for values in row for value in values)
        return file.getvalue()

    def latex(self) -> str:
        """Return the table as a LaTeX booktabs table, ready to be included."""
        alignment = "".join("r" if number else "l" for number in self.numeric)
        titles, rows = self._written(_latex)
        return "\n".join(
            (
                r"% needs \usepackage{booktabs}",
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{_latex(' '.join(filter(None, (self.title + '.', self.note))))}}}",
                rf"\label{{tab:{self.name}}}",
                rf"\begin{{tabular}}{{{alignment}}}",
                r"\toprule",
                " & ".join(titles) + r" \\",
                r"\midrule",
                *(" & ".join(row) + r" \\" for row in rows),
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
                "",
            )
        )

    def html(self) -> str:
        """Return the table as an HTML element."""
        titles, rows = self._written(_html)
        kinds = [' class="number"' if number else "" for number in self.numeric]
        head = "".join(f"<th{kind}>{title}</th>" for kind, title in zip(kinds, titles, strict=True))
        lines = (
            "".join(f"<td{kind}>{_INTERVAL.sub(_SMALL, entry)}</td>" for kind, entry in zip(kinds, row, strict=True))
            for row in rows
        )
        body = "\n".join(f"<tr>{line}</tr>" for line in lines)
        return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'

    def terminal(self) -> TerminalTable:
        """Return the table for the terminal."""
        titles, rows = self._written(plain)
        made = TerminalTable(title=Text(plain(self.title)), title_justify="left")
        for title, number in zip(titles, self.numeric, strict=True):
            made.add_column(Text(title), justify="right" if number else "left")
        for row in rows:
            made.add_row(*map(Text, row))
        return made


def percent(accuracy: Accuracy, with_n: bool = True) -> str:
    """Format an accuracy in percent with its interval and, over several seeds, the seeds."""
    low, high = accuracy.interval
    n = f", n={accuracy.n}" if with_n else ""
    return f"{100 * accuracy.value:.2f} [{100 * low:.1f}, {100 * high:.1f}]{_seeds(accuracy, ', ')}{n}"


def in_words(accuracy: Accuracy) -> str:
    """Format an accuracy for a sentence, such as ``41.3 % (38.2 to 44.4, n = 1,000)``."""
    low, high = accuracy.interval
    seeds = _seeds(accuracy, "; ")
    return f"{100 * accuracy.value:.1f} % ({100 * low:.1f} to {100 * high:.1f}, n = {accuracy.n:,}{seeds})"


def _seeds(accuracy: Accuracy, before: str) -> str:
    """Return each of a few seeds, the range of many, and how many are missing; empty for a single one."""
    values = [f"{100 * value:.2f}" for value in accuracy.seeds]
    parts = []
    if values:
        parts.append(f"seeds {values[0]} to {values[-1]}" if len(values) >= MANY else f"seeds {' / '.join(values)}")
    if accuracy.missing:
        parts.append(f"{accuracy.missing} seed{'s' if accuracy.missing > 1 else ''} missing")
    return "".join(before + part for part in parts)


def _shown(entry: Entry, escape: Callable[[str], str], with_n: bool) -> str:
    if isinstance(entry, str):
        return escape(entry)
    if isinstance(entry, Accuracy):
        return percent(entry, with_n)
    if isinstance(entry, Time):
        return duration(entry.seconds)
    sign = "+" if entry.signed else ""
    return "-" if entry.value is None else f"{entry.value:{sign}.{entry.digits}f}"


def _spread(title: str, column: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Return the CSV columns of a table column: their titles, and their values for each row."""
    if not any(isinstance(entry, Accuracy) for entry in column):
        unit = " (s)" if any(isinstance(entry, Time) for entry in column) else ""
        return [f"{title}{unit}"], [[_bare(entry)] for entry in column]
    parts = ["", " low", " high", " n"]
    if any(isinstance(entry, Accuracy) and entry.seeds for entry in column):
        parts.append(" worst seed")
    rows = []
    for entry in column:
        values: list[str] = []
        if isinstance(entry, Accuracy):
            low, high = entry.interval
            worst = min(entry.seeds, default=entry.value)
            values = [repr(100 * entry.value), repr(100 * low), repr(100 * high), str(entry.n), repr(100 * worst)]
        rows.append((values + [""] * 5)[: len(parts)])
    return [f"{title}{part}" for part in parts], rows


def _bare(entry: Entry) -> str:
    if isinstance(entry, Number):
        return "" if entry.value is None else repr(entry.value)
    if isinstance(entry, Time):
        return "" if entry.seconds is None else repr(entry.seconds)
    return no_formula(plain(entry))


def markdown_text(text: str) -> str:
    """Escape text for Markdown, so that nothing in it formats or links."""
    return _MARKDOWN.sub(r"\\\1", plain(text))


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in plain(text))


def _html(text: str) -> str:
    return html.escape(plain(text))
