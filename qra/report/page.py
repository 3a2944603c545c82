"""One HTML page that gathers a report and needs nothing else: figures are inside, nothing is loaded."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence

from qra.files import plain
from qra.report.claims import CLAIMS
from qra.report.contents import doubts_of, state_counts
from qra.report.judging import Claim, Finding
from qra.report.pipelines import Results
from qra.report.style import Drawing
from qra.report.tables import Table
from qra.report.verdicts import METHOD, doubts, rests_on, short_evidence

APPENDIX = ("outcomes", "cells", "runs", "commands")
"""Tables that are long: folded on screen."""

STYLE = """
:root { color-scheme: light dark; --text: #1b1b1b; --faint: #5c5c5c; --rule: #d0d0d0; --page: #ffffff; --band: #f4f4f2;
  --supported: #00664d; --contradicted: #a83e00; --undecided: #5c5c5c; }
@media (prefers-color-scheme: dark) { :root { --text: #e8e8e6; --faint: #a8a8a5; --rule: #444444; --page: #171717;
  --band: #222222; --supported: #4cc9a4; --contradicted: #ff9d5c; --undecided: #b5b5b2; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, "Segoe UI", "Helvetica Neue", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; line-height: 1.2; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .75rem; border-bottom: 1px solid var(--rule); padding-bottom: .25rem; }
h3 { font-size: 1rem; margin: 1.75rem 0 .4rem; }
p { max-width: 46rem; margin: .5rem 0; }
.faint, figcaption { color: var(--faint); font-size: .875rem; }
figcaption { max-width: 46rem; margin-top: .4rem; }
nav a { margin-right: 1rem; }
a { color: inherit; }
.wide { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .8125rem; line-height: 1.35; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; background: var(--band); }
td.number, th.number { text-align: right; }
td.number { white-space: nowrap; }
th { min-width: 4.5rem; }
th:nth-child(3) { min-width: 5.5rem; }
.claim th:nth-child(3), .claim th:last-child { min-width: 15rem; }
.wide > table > thead th:first-child { min-width: 11rem; }
.wide td:first-child, .wide th:first-child { position: sticky; left: 0; }
.wide td:first-child { background: var(--page); }
.claim { border-left: .3rem solid var(--undecided); padding: .1rem 0 .1rem .9rem; margin: .9rem 0; }
.claim p { margin: .15rem 0; }
.claim.supported { border-color: var(--supported); } .claim.contradicted { border-color: var(--contradicted); }
.verdict { font-weight: 700; color: var(--undecided); }
.supported .verdict { color: var(--supported); } .contradicted .verdict { color: var(--contradicted); }
figure { margin: 1.25rem 0 2rem; }
figure img { display: block; max-width: 100%; height: auto; background: #ffffff; padding: .5rem; border-radius: .3rem; }
summary { cursor: pointer; font-weight: 600; margin: 1rem 0 .5rem; }
summary.faint { font-weight: 400; margin: .3rem 0; }
@page { size: A4 landscape; margin: 12mm; }
@media print { :root { --text: #000; --faint: #333; --rule: #999; --page: #fff; --band: #eee; --supported: #00664d;
  --contradicted: #a83e00; --undecided: #333; } body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; } figure, .claim, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .wide { overflow: visible; } table { font-size: 7pt; } th, td { padding: .15rem .3rem; }
  td.number { white-space: normal; } th, th:nth-child(3), .claim th:last-child,
  .wide > table > thead th:first-child { min-width: 0; }
  .wide td:first-child { position: static; } }
"""


def page(
    results: Results,
    findings: Mapping[str, Finding],
    tables: Sequence[Table],
    drawings: Sequence[Drawing],
    missing: Sequence[str],
    advice: str,
) -> str:
    """The whole page.

    Args:
        results: Results of the study.
        findings: Findings by key of the claim.
        tables: Tables in their order.
        drawings: Drawings in their order.
        missing: What could not be drawn, and why.
        advice: What to use for the budget that was asked for; empty if none was.
    """
    name = _text(results.name)
    main = [_table(table) for table in tables if table.name not in APPENDIX]
    appendix = [
        f"<details><summary>{_text(table.title)}</summary>{_table(table, False)}</details>"
        for table in tables
        if table.name in APPENDIX
    ]
    absent = "".join(f"<li>{_text(reason)}</li>" for reason in missing)
    parts = (
        f"<h1>{name}: quantization and robust accuracy</h1><p class='faint'>{_text(state_counts(results))}</p>",
        f"<p>{_text(advice)}</p>" if advice else "",
        "<nav><a href='#claims'>Claims</a><a href='#figures'>Figures</a><a href='#tables'>Tables</a>"
        "<a href='#appendix'>Every number and run</a></nav>",
        _problems(results),
        "<h2 id='claims'>Claims</h2>",
        *(_claim(claim, findings[claim.key]) for claim in CLAIMS),
        f"<p class='faint'>{_text(METHOD)}</p>",
        "<h2 id='figures'>Figures</h2>",
        *(_figure(drawing) for drawing in drawings),
        f"<h3>Not drawn</h3><ul class='faint'>{absent}</ul>" if absent else "",
        "<h2 id='tables'>Tables</h2>",
        *main,
        "<h2 id='appendix'>Every number and run</h2>",
        *appendix,
    )
    body = "\n".join(filter(None, parts))
    return (
        f"<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'><title>{name}</title>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _problems(results: Results) -> str:
    bad = [cell for cell in results.cells if cell.state != "done"]
    suspect = [cell for cell in results.cells if cell.doubt.state == "suspect"]
    lines = [f"{cell.name}: {cell.state}{f', {cell.reason}' if cell.reason else ''}" for cell in bad]
    lines += [f"{cell.name}: gradients are suspect: {doubts_of(cell)}" for cell in suspect]
    lines += [f"{cell.name}: {problem}" for cell in results.cells for problem in cell.problems]
    if not lines:
        return ""
    items = "".join(f"<li>{_text(line)}</li>" for line in lines)
    title = f"{len(bad)} cells without a result, {len(suspect)} with suspect gradients"
    opened = " open" if len(lines) <= 12 else ""
    return f"<details{opened}><summary>{title}</summary><ul class='faint'>{items}</ul></details>"


def _claim(claim: Claim, finding: Finding) -> str:
    why = " ".join(filter(None, (finding.because, rests_on(finding), doubts(finding))))
    evidence = short_evidence(claim.key, finding).html() if finding.judged else ""
    return (
        f"<section class='claim {finding.verdict}'><p><span class='verdict'>{finding.verdict}</span> &nbsp;"
        f"{_text(claim.statement)}</p><p class='faint'>{_text(why)}</p>"
        f"<p class='faint'>A check holds if {_text(claim.criterion)}. Source: {_text(claim.source)}.</p>"
        + (f"<details><summary class='faint'>Evidence</summary>{evidence}</details>" if evidence else "")
        + "</section>"
    )


def _figure(drawing: Drawing) -> str:
    data = base64.b64encode(drawing.svg).decode()
    title = _text(drawing.title)
    return (
        f"<figure><h3>{title}</h3><img alt='{title}' src='data:image/svg+xml;base64,{data}'>"
        f"<figcaption>{_text(drawing.caption)}</figcaption></figure>"
    )


def _table(table: Table, titled: bool = True) -> str:
    title = f"<h3>{_text(table.title)}</h3>" if titled else ""
    return f"{title}{table.html()}" + (f"<p class='faint'>{_text(table.note)}</p>" if table.note else "")


def _text(text: str) -> str:
    return html.escape(plain(text))
