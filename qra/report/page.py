"""One self-contained HTML page for a report: figures are embedded and nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterable

from qra.report import markup
from qra.report.claims import CLAIMS
from qra.report.contents import doubts_of, fate, state_counts
from qra.report.document import Document
from qra.report.judging import Claim, Finding
from qra.report.results import Results
from qra.report.verdicts import METHOD, doubts, rests_on, short_evidence

FIRST = "advice"
"""The table beside the summary."""
APPENDIX = ("outcomes", "cells", "runs", "commands")
"""Long tables, which are folded on screen."""


def page(document: Document) -> str:
    """Return the page: facts about the study, its answer, the verdicts, then figures and tables."""
    name = markup.text(document.results.name)
    folded = [
        f"<details><summary>{markup.text(table.title)}</summary>{markup.table(table, False)}</details>"
        for table in document.tables
        if table.name in APPENDIX
    ]
    parts = (
        f"<h1>{name}: quantization and robust accuracy</h1>",
        _facts(document),
        f"<p class='band'>{markup.text(document.band)}</p>" if document.band else "",
        _summary(document),
        *(markup.table(table) for table in document.tables if table.name == FIRST),
        f"<p>{markup.text(document.advice)}</p>" if document.advice else "",
        "<nav><a href='#claims'>Claims</a><a href='#figures'>Figures</a><a href='#tables'>Tables</a>"
        "<a href='#appendix'>Every number and run</a></nav>",
        _problems(document.results),
        "<h2 id='claims'>Claims</h2>",
        *_claims(document),
        "<h2 id='figures'>Figures</h2>",
        *(markup.figure(drawing) for drawing in document.drawings),
        f"<h3>Not drawn</h3><ul class='faint'>{_items(document.missing)}</ul>" if document.missing else "",
        "<h2 id='tables'>Tables</h2>",
        *(markup.table(table) for table in document.tables if table.name not in (FIRST, *APPENDIX)),
        "<h2 id='appendix'>Every number and run</h2>",
        *folded,
    )
    return markup.document(document.results.name, parts)


def _facts(document: Document) -> str:
    facts = "".join(f"<dt>{markup.text(fact.name)}</dt><dd>{markup.text(fact.text)}</dd>" for fact in document.facts)
    return f"<dl class='facts'>{facts}<dt>cells</dt><dd>{markup.text(state_counts(document.results))}</dd></dl>"


def _summary(document: Document) -> str:
    said = document.summary
    unsure = [line for line in said.doubts if line != document.band]
    sure = f"<p class='faint'>How certain is this?</p><ul class='faint'>{_items(unsure)}</ul>" if unsure else ""
    answers = f"<ul>{_items(said.answers)}</ul>"
    return f"<section class='summary'><p class='question'>{markup.text(said.question)}</p>{answers}{sure}</section>"


def _items(lines: Iterable[str]) -> str:
    return "".join(f"<li>{markup.text(line)}</li>" for line in lines)


def _claims(document: Document) -> list[str]:
    """Return the claims that the study has cells for, then the others in one line each, folded."""
    tested = [claim for claim in CLAIMS if document.findings[claim.key].judged]
    others = [claim for claim in CLAIMS if claim not in tested]
    lines = _items(f"{claim.statement} It would need: {claim.needs}." for claim in others)
    title = f"{len(others)} claims that this study cannot test"
    return [
        *(_claim(claim, document.findings[claim.key]) for claim in tested),
        f"<details><summary class='faint'>{title}</summary><ul class='faint'>{lines}</ul></details>" if others else "",
        f"<details><summary class='faint'>How verdicts are reached</summary><p class='faint'>{markup.text(METHOD)}</p>"
        "</details>",
    ]


def _problems(results: Results) -> str:
    bad = [cell for cell in results.cells if cell.state != "done"]
    suspect = [cell for cell in results.cells if cell.doubt.state == "suspect"]
    lines = [fate(cell) for cell in bad]
    lines += [f"{cell.name}: gradients are suspect: {doubts_of(cell)}" for cell in suspect]
    lines += [f"{cell.name}: {problem}" for cell in results.cells for problem in cell.problems]
    if not lines:
        return ""
    repeated = sum(cell.state == "repeated" for cell in bad)
    damaged = sum(bool(cell.problems) for cell in results.cells)
    title = f"{len(bad) - repeated} cells without a result, {len(suspect)} with suspect gradients"
    title += f", {repeated} with the same coordinates and seed as another" if repeated else ""
    title += f", {damaged} with damaged files" if damaged else ""
    opened = " open" if 0 < len(bad) <= 12 else ""  # suspect gradients are also marked in every table
    return f"<details{opened}><summary>{title}</summary><ul class='faint'>{_items(lines)}</ul></details>"


def _claim(claim: Claim, finding: Finding) -> str:
    doubt = f"Gradients: {finding.doubts}." if finding.doubts else ""
    why = " ".join(filter(None, (finding.because, rests_on(finding), doubt)))
    return (
        f"<section class='claim {finding.verdict}'><p><span class='verdict'>{finding.verdict}</span> &nbsp;"
        f"{markup.text(claim.statement)}</p><p class='faint'>{markup.text(why)}</p>"
        f"<details><summary class='faint'>Evidence</summary>"
        f"<p class='faint'>A check holds if {markup.text(claim.criterion)}. Source: {markup.text(claim.source)}.</p>"
        f"<p class='faint'>{markup.text(doubts(finding))}</p>{short_evidence(claim.key, finding).html()}</details>"
        "</section>"
    )
