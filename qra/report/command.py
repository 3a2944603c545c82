"""``qra report``: what a study shows, as tables, figures, verdicts on the claims, and one page that gathers them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as TerminalTable
from rich.text import Text

from qra.files import plain
from qra.front.tool_arguments import report as arguments_of_report
from qra.report.cells import read_cells
from qra.report.claims import CLAIMS, judge_all
from qra.report.contents import KIB, state_counts, tables
from qra.report.figures import drawings
from qra.report.judging import Finding
from qra.report.page import page
from qra.report.pareto import offers, recommended
from qra.report.pipelines import Results
from qra.report.tables import Table, markdown_text, percent
from qra.report.verdicts import claims_markdown, evidence_table, verdict_table
from qra.writing import write_bytes

_OWN = re.compile(
    r"figures/(curves-\d+|clean-robust|heat-map|pareto-size|pareto-bitops|attacks|data-size|calibration-size|cost)"
    r"\.(png|svg)|tables/(accuracy|gradients|pareto|cost)\.(md|csv|tex)"
)
"""Files of a report that the next one may not have."""
COLORS = {"supported": "green", "contradicted": "red", "undecided": "yellow"}


def write_report(study: Path, out: Path, budget_kib: float | None = None) -> tuple[Results, dict[str, Finding]]:
    """Write the report of a study; the same cells give the same bytes.

    Args:
        study: Directory with one directory a cell.
        out: Where the report goes; files of an earlier one are replaced.
        budget_kib: Model size for which to recommend a pipeline.

    Raises:
        ValueError: If there are no cells.
    """
    results = Results(study.resolve().name, read_cells(study))
    findings = judge_all(results)
    made, missing = drawings(results)
    all_tables = (verdict_table(findings), *tables(results), evidence_table(findings))
    advice = "" if budget_kib is None else advise(results, budget_kib)
    for folder in ("tables", "figures"):
        if (out / folder).is_symlink():
            raise ValueError(f"{out / folder}: is a symbolic link, which is not followed: remove it")
        (out / folder).mkdir(parents=True, exist_ok=True)
    files: dict[str, bytes] = {}
    for drawing in made:
        files |= {f"figures/{drawing.name}.png": drawing.png, f"figures/{drawing.name}.svg": drawing.svg}
    for table in all_tables:
        texts = {"md": table.markdown(), "csv": table.csv(), "tex": table.latex()}
        files |= {f"tables/{table.name}.{kind}": text.encode() for kind, text in texts.items()}
    files["claims.md"] = claims_markdown(findings, results.name).encode()
    files["report.md"] = markdown(
        results, all_tables, [(d.name, d.title, d.caption) for d in made], missing, advice
    ).encode()
    files["report.html"] = page(results, findings, all_tables[1:-1], made, missing, advice).encode()
    _replace(out, files)
    return results, findings


def advise(results: Results, budget_kib: float) -> str:
    """What to use for a model size, in a sentence."""
    found = recommended(offers(results, "size_in_bits", KIB), budget_kib)
    if found is None:
        return f"No pipeline of known size with robust accuracy left fits into {budget_kib:g} KiB."
    accuracy = found.pipeline.robust(results.headline)
    return (
        f"For up to {budget_kib:g} KiB use {results.label(found.pipeline)} ({found.cost:.1f} KiB): "
        f"{percent(accuracy) if accuracy else ''} under {results.headline_title}, gradients {found.pipeline.gradients}."
    )


def markdown(
    results: Results,
    all_tables: Sequence[Table],
    figures: Sequence[tuple[str, str, str]],
    missing: Sequence[str],
    advice: str,
) -> str:
    """The page ``report.md``: verdicts, figures as links, all tables but the long ones."""
    parts = [f"# {markdown_text(results.name)}: quantization and robust accuracy", state_counts(results)]
    parts += [
        markdown_text(advice),
        "The evidence for the verdicts is in [claims.md](claims.md), every single number in `tables/outcomes.csv`.",
    ]
    for table in all_tables:
        if table.name not in ("evidence", "outcomes"):
            parts += [f"## {table.title}", table.markdown().strip(), table.note]
    parts.append("## Figures")
    for name, title, caption in figures:
        parts += [f"![{markdown_text(title)}](figures/{name}.png)", markdown_text(caption)]
    parts += ["Not drawn:", "".join(f"- {reason}\n" for reason in missing).strip()] if missing else []
    return "\n\n".join(filter(None, parts)) + "\n"


def _replace(out: Path, files: Mapping[str, bytes]) -> None:
    """Write each file whole or not at all, and remove those of an earlier report that were not made again."""
    for folder in ("tables", "figures"):
        for path in (out / folder).iterdir():
            name = f"{folder}/{path.name}"
            if _OWN.fullmatch(name) and name not in files:
                path.unlink()
    for name, content in files.items():
        write_bytes(out / name, content)


def main(arguments: Sequence[str]) -> None:
    """Write a report and print its verdicts."""
    options = arguments_of_report().parse_args(list(arguments))
    out = options.out or options.study / "report"
    results, findings = write_report(options.study, out, options.budget_kib)
    console = Console()
    summary = TerminalTable("claim", "verdict", "why")
    for claim in CLAIMS:
        finding = findings[claim.key]
        doubt = f" Gradients: {finding.doubts}." if finding.doubts else ""
        verdict = Text(finding.verdict, COLORS[finding.verdict])
        summary.add_row(Text(claim.statement), verdict, Text(finding.because + doubt))
    console.print(summary)
    console.print(Text(state_counts(results)))
    for cell in results.cells:
        if cell.state != "done":
            console.print(
                Text(plain(f"{cell.name}: {cell.state}{f', {cell.reason}' if cell.reason else ''}")), soft_wrap=True
            )
    if options.budget_kib is not None:
        console.print(Text(plain(advise(results, options.budget_kib))), soft_wrap=True)
    console.print(Text(f"written to {out / 'report.html'}"), soft_wrap=True)
