"""``qra report``: tables, figures, verdicts on the claims, and one page that gathers them, for a study."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as TerminalTable
from rich.text import Text

from qra.checks import check_in
from qra.files import plain
from qra.front.tool_arguments import report as arguments_of_report
from qra.report.claims import CLAIMS
from qra.report.contents import fate, state_counts
from qra.report.document import Document, gather, markdown
from qra.report.page import page
from qra.report.verdicts import claims_markdown
from qra.writing import write_bytes

_OWN = re.compile(
    r"figures/(curves-\d+|clean-robust|heat-map|pareto-size|pareto-bitops|attacks|data-size|calibration-size|cost"
    r"|over-[a-z0-9-]+|sensitivity-\d+|security-\d+)\.(png|svg)|tables/(advice|accuracy|gradients|distances|corrupted|pareto|cost)\.(md|csv|tex)"
)
"""Files of a report that are removed if the next one does not have them."""
_FOLDERS = ("tables", "figures")
COLORS = {"supported": "green", "contradicted": "red", "undecided": "yellow"}


def write_report(study: Path, out: Path, budget_kib: float | None = None) -> Document:
    """Write the report of a study; the same cells give the same bytes.

    Args:
        study: Directory with one directory per cell.
        out: Directory of the report; files of an earlier one are replaced.
        budget_kib: Model size, in KiB, for which to recommend a pipeline.

    Raises:
        ValueError: If there are no cells, or something is in the way of the report; nothing is written then.
    """
    _check_folders(out)
    document = gather(study, budget_kib)
    files: dict[str, bytes] = {}
    for drawing in document.drawings:
        files |= {f"figures/{drawing.name}.png": drawing.png, f"figures/{drawing.name}.svg": drawing.svg}
    for table in document.all_tables:
        texts = {"md": table.markdown(), "csv": table.csv(), "tex": table.latex()}
        files |= {f"tables/{table.name}.{kind}": text.encode() for kind, text in texts.items()}
    files["claims.md"] = claims_markdown(document.findings, document.results.name).encode()
    files["report.md"] = markdown(document).encode()
    files["report.html"] = page(document).encode()
    for path in (out / name for name in files):
        if path.is_dir() and not path.is_symlink():
            raise ValueError(f"{path}: is a directory in the place of a file: move it away, or choose another --out")
    for folder in _FOLDERS:
        (out / folder).mkdir(parents=True, exist_ok=True)
    _replace(out, files)
    return document


def _check_folders(out: Path) -> None:
    """Reject a place where a report cannot be written, before anything is read or written."""
    folders = [out / folder for folder in _FOLDERS]
    for path in folders:
        if path.is_symlink():
            raise ValueError(f"{path}: is a symbolic link, which is not followed: remove it")
    for path in (*reversed(out.parents), out, *folders):
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path}: is a file, and the report {out} needs a directory: choose another --out")
    for path in (out, *folders):
        if path.is_dir() and not os.access(path, os.W_OK | os.X_OK):
            raise ValueError(f"{path}: nothing can be written there: change its permissions, or choose another --out")


def _replace(out: Path, files: Mapping[str, bytes]) -> None:
    """Write each file atomically, and remove those of an earlier report that this one does not have."""
    for folder in _FOLDERS:
        for path in (out / folder).iterdir():
            name = f"{folder}/{path.name}"
            if _OWN.fullmatch(name) and name not in files and (path.is_file() or path.is_symlink()):
                path.unlink()
    for name, content in files.items():
        write_bytes(out / name, content)


def main(arguments: Sequence[str]) -> None:
    """Write a report, and print its verdicts, the cells that are not done, the summary and where the page is."""
    options = arguments_of_report().parse_args(list(arguments))
    if options.budget_kib is not None:
        check_in("--budget-kib", options.budget_kib, "(0, inf)")
    out = options.out or options.study / "report"
    document = write_report(options.study, out, options.budget_kib)
    console = Console()
    _print_verdicts(console, document)
    lines = [state_counts(document.results)]
    lines += [fate(cell) for cell in document.results.cells if cell.state != "done"]
    lines += ["", *document.summary.lines]
    lines += [document.advice] if document.advice else []
    for line in (*lines, f"written to {out / 'report.html'}"):
        console.print(Text(plain(line)), soft_wrap=True)


def _print_verdicts(console: Console, document: Document) -> None:
    """Print the verdicts on the claims that the study has cells for."""
    tested = [claim for claim in CLAIMS if document.findings[claim.key].judged]
    if not tested:
        return
    table = TerminalTable("claim", "verdict", "why")
    for claim in tested:
        finding = document.findings[claim.key]
        doubt = f" Gradients: {finding.doubts}." if finding.doubts else ""
        verdict = Text(finding.verdict, COLORS[finding.verdict])
        table.add_row(Text(claim.statement), verdict, Text(finding.because + doubt))
    console.print(table)
