"""The content of a report, gathered once for its page, its text and the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qra.report.cells import read_cells
from qra.report.claims import judge_all
from qra.report.contents import KIB, state_counts, tables
from qra.report.figures import drawings
from qra.report.header import MADE_UP, Fact, header, is_made_up
from qra.report.judging import Finding
from qra.report.pareto import Choice, choices, offers, recommended
from qra.report.results import Results
from qra.report.style import Drawing
from qra.report.summary import Summary, summary
from qra.report.tables import Table, in_words, markdown_text
from qra.report.verdicts import evidence_table, verdict_table


@dataclass(frozen=True)
class Document:
    """The content of a report.

    Args:
        results: Results of the study.
        findings: Findings by key of the claim.
        facts: Facts about the study: data, network, examples, seeds and dates.
        band: Notice that must be read first, such as that images are synthetic; empty if there is none.
        summary: The answer in a few sentences.
        advice: Recommendation for the requested budget; empty if none was requested.
        tables: Tables in order, without those of the claims.
        drawings: Drawings in order.
        missing: Figures that could not be drawn, and why.
    """

    results: Results
    findings: Mapping[str, Finding]
    facts: tuple[Fact, ...]
    band: str
    summary: Summary
    advice: str
    tables: tuple[Table, ...]
    drawings: tuple[Drawing, ...]
    missing: tuple[str, ...]

    @property
    def all_tables(self) -> tuple[Table, ...]:
        """All tables, including those of the claims."""
        return (verdict_table(self.findings), *self.tables, evidence_table(self.findings))


def gather(study: Path, budget_kib: float | None = None) -> Document:
    """Read a study and compute the content of its report.

    Args:
        study: Directory with one directory per cell.
        budget_kib: Model size, in KiB, for which to recommend a pipeline.

    Raises:
        ValueError: If there are no cells.
    """
    results = Results(study.resolve().name, read_cells(study))
    findings = judge_all(results)
    best = choices(results, offers(results, "size_in_bits", KIB))
    made, missing = drawings(results)
    return Document(
        results,
        findings,
        header(results),
        MADE_UP if is_made_up(results) else "",
        summary(results, findings, best),
        "" if budget_kib is None else advise(results, best, budget_kib),
        tables(results, best),
        made,
        missing,
    )


def advise(results: Results, best: tuple[Choice, ...], budget_kib: float) -> str:
    """Return a sentence that says what to use for a model size."""
    found = recommended(best, budget_kib)
    if found is None:
        return f"No pipeline with known size and some robust accuracy fits into {budget_kib:g} KiB."
    use = found.use
    accuracy = use.pipeline.robust(results.headline)
    ties = sum(offer.cost <= budget_kib for offer in found.ties)
    as_good = f"; {ties} more within the budget are not significantly worse" if ties else ""
    return (
        f"For up to {budget_kib:g} KiB use {results.label(use.pipeline)} ({use.cost:.1f} KiB): "
        f"{in_words(accuracy) if accuracy else ''} under {results.headline_title}, "
        f"gradients {use.pipeline.gradients}{as_good}."
    )


def markdown(document: Document) -> str:
    """Return the page ``report.md``: summary, verdicts, all tables except the long ones, and figures as links."""
    said = document.summary
    parts = [
        f"# {markdown_text(document.results.name)}: quantization and robust accuracy",
        _bullets(f"{fact.name}: {fact.text}" for fact in document.facts),
        f"**{markdown_text(document.band)}**" if document.band else "",
        "## Summary",
        f"**{markdown_text(said.question)}**",
        _bullets(said.answers),
        "How certain this is:",
        _bullets(said.doubts),
        markdown_text(document.advice),
        f"{state_counts(document.results)} The evidence for the verdicts is in [claims.md](claims.md), and every "
        "single number in `tables/outcomes.csv`.",
    ]
    for table in document.all_tables:
        if table.name not in ("evidence", "outcomes"):
            parts += [f"## {markdown_text(table.title)}", table.markdown().strip(), markdown_text(table.note)]
    parts.append("## Figures")
    for drawing in document.drawings:
        parts += [
            f"![{markdown_text(drawing.title)}](figures/{drawing.name}.png)",
            markdown_text(drawing.caption),
        ]
    if document.missing:
        parts += ["Not drawn:", _bullets(document.missing)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {markdown_text(line)}" for line in lines)
