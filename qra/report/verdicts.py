"""Presentation of the findings about the claims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from qra.evaluation.seeds import MANY
from qra.report.claims import CLAIMS
from qra.report.judging import EXCEPTIONS, Finding, Judged
from qra.report.paired import MARGIN, Comparison, Effect
from qra.report.tables import Entry, Number, Table, markdown_text

MARKS = {True: "holds", False: "fails", None: "open"}

METHOD = (
    f"A difference below {100 * MARGIN:g} points of accuracy counts as none. Networks are compared on the test "
    "examples that they share, paired by seed, by the worst case per example over the attacks that both have met. "
    "Lost and gained count the examples that only the second or only the first gets right; p is McNemar's exact test "
    "of one pair of seeds (the largest of several), not adjusted. Distances of adversarial examples are compared as "
    "shares of the second's median: lost and gained are then the nearer and the farther ones, p is from Wilcoxon's "
    "signed-rank test, and the difference is Hodges and Lehmann's, with the interval of that test, over all examples "
    "except those that both misclassify without an attack and those that no attack broke. The other intervals are "
    "Agresti and Min's. The intervals of all comparisons of one claim hold jointly at 95 % (Bonferroni); claims are "
    "separate questions, with no adjustment across them. Intervals cover the choice of test examples; those of "
    f"accuracies also cover the choice of seeds, from {MANY} seeds on. If seeds disagree in sign, a difference is "
    "open. A suspect number is only an upper bound, and counts only if a lower one would give the same answer; one "
    "that is not judged counts as it is, and is named. A claim is supported (contradicted) if more than half of its "
    f"checks hold (fail) and at most {EXCEPTIONS:.0%} of those that are not open fail (hold); otherwise it is "
    "undecided."
)
"""How verdicts are reached."""


def verdict_table(findings: Mapping[str, Finding]) -> Table:
    """Return a table with a row for each claim."""
    rows = []
    for claim in CLAIMS:
        finding = findings[claim.key]
        doubt = finding.doubts or ("none" if finding.judged else "-")
        rows.append((claim.statement, finding.verdict, finding.because, _sizes(finding), _seeds(finding), doubt))
    columns = ("claim", "verdict", "why", "n", "seeds", "gradients in doubt")
    return Table("claims", "What the study says about the claims", columns, tuple(rows), METHOD)


def evidence_table(findings: Mapping[str, Finding]) -> Table:
    """Return a table with a row for each comparison that a verdict rests on."""
    rows: list[tuple[Entry, ...]] = []
    for key, finding in findings.items():
        for judged in finding.judged:
            rows.extend((key, *row) for row in _evidence(judged))
    columns = (
        "claim", "check", "result", "first", "second", "outcomes", "first (%)", "second (%)",
        "difference", "from", "to", "is", "lost", "gained", "p", "n", "seeds", "gradients", "cells",
    )  # fmt: skip
    return Table("evidence", "What the verdicts rest on", columns, tuple(rows), METHOD)


def claims_markdown(findings: Mapping[str, Finding], name: str) -> str:
    """Return the page ``claims.md``: each claim with its verdict, criterion and evidence."""
    parts = [f"# Claims, tested on {markdown_text(name)}\n\n{verdict_table(findings).markdown()}\n{METHOD}\n"]
    for claim in CLAIMS:
        finding = findings[claim.key]
        parts.append(
            f"## {claim.key}: {finding.verdict}\n\n{claim.statement} ({claim.source})\n\n"
            f"A check holds if {claim.criterion}. {markdown_text(finding.because)} {rests_on(finding)}\n"
        )
        if finding.judged:
            parts.append(short_evidence(claim.key, finding).markdown())
        if doubt := doubts(finding):
            parts.append(f"{markdown_text(doubt)}\n")
    return "\n".join(parts)


def short_evidence(key: str, finding: Finding) -> Table:
    """Return a table of the comparisons that one verdict rests on, in columns that fit on a page."""
    columns = ("check", "result", "compared", "first - second (points)", "lost / gained", "p", "n", "seeds", "cells")
    rows = tuple(row for judged in finding.judged for row in _short(judged))
    return Table(key, f"What the verdict on {key} rests on", columns, rows)


def doubts(finding: Finding) -> str:
    """Return sentences on the pipelines whose gradients are suspect or not judged; empty if there are none."""
    said = (("Suspect", finding.suspect), ("Not judged", finding.not_judged))
    return " ".join(f"{state}: {'; '.join(titles)}." for state, titles in said if titles)


def rests_on(finding: Finding) -> str:
    """Return a sentence with the numbers of comparisons, examples and seeds; empty if there are none."""
    comparisons = [each for judged in finding.judged for each in judged.check.comparisons]
    if not comparisons:
        return ""
    seeds = [len(each.seeds) for each in comparisons]
    many = "one comparison" if len(comparisons) == 1 else f"{len(comparisons)} comparisons"
    caution = " One seed each: other trainings may differ." if max(seeds) == 1 else ""
    return f"It rests on {many}, n = {_sizes(finding)}, seeds: {_range(seeds)}.{caution}"


def _evidence(judged: Judged) -> list[tuple[Entry, ...]]:
    check, result = judged.check, MARKS[judged.holds]
    if not check.comparisons:
        blank: tuple[Entry, ...] = ("",) * 15
        return [(check.about, result, check.missing, *blank)]
    return [
        (
            check.about,
            result,
            *each.titles,
            " / ".join(dict.fromkeys(each.outcomes)),
            *(Number(100 * value, 2) for value in each.accuracies),
            *(Number(100 * value, 2, signed=True) for value in effect),
            effect.title,
            _each(pair.lost for pair in each.seeds),
            _each(pair.gained for pair in each.seeds),
            _p(each),
            str(each.n),
            str(len(each.seeds)),
            _doubts(each),
            _cells(each),
        )
        for each, effect in zip(check.comparisons, judged.effects, strict=True)
    ]


def _short(judged: Judged) -> list[tuple[Entry, ...]]:
    """Return the columns of :func:`_evidence` that fit on a page."""
    check, result = judged.check, MARKS[judged.holds]
    if not check.comparisons:
        return [(check.about, result, check.missing, "", "", "", "", "", "")]
    return [
        (
            check.about,
            result,
            _compared(each),
            difference(effect),
            f"{_each(pair.lost for pair in each.seeds)} / {_each(pair.gained for pair in each.seeds)}",
            _p(each),
            str(each.n),
            str(len(each.seeds)),
            _cells(each),
        )
        for each, effect in zip(check.comparisons, judged.effects, strict=True)
    ]


def difference(effect: Effect) -> str:
    """Format a difference in points of accuracy with its interval; an unknown end is left out."""
    low = "" if effect.low == -1 else f"{100 * effect.low:+.1f}"
    high = "" if effect.high == 1 else f"{100 * effect.high:+.1f}"
    return f"{effect.title}: {100 * effect.mean:+.2f} ({low}..{high})"


def _compared(each: Comparison) -> str:
    first, second = (f"{100 * value:.2f}" for value in each.accuracies)
    outcomes = " / ".join(dict.fromkeys(each.outcomes))
    doubts = f", {_doubts(each)}" if _doubts(each) else ""
    return f"{each.titles[0]} {first} against {each.titles[1]} {second} ({outcomes}){doubts}"


def _doubts(each: Comparison) -> str:
    """Return doubts such as ``first suspect, second not judged``; empty for sound numbers."""
    sides = zip(("first", "second"), each.states, strict=True)
    return ", ".join(f"{side} {state}" for side, state in sides if state != "sound")


def _p(each: Comparison) -> str:
    """Return the largest p-value of the seed pairs; ``-`` for a share of an accuracy, which McNemar's test lacks."""
    return f"{max(pair.p for pair in each.seeds):.2g}" if each.share == 1 else "-"


def _each(counts: Iterable[int]) -> str:
    return "+".join(map(str, counts))


def _cells(each: Comparison) -> str:
    return "; ".join(" / ".join(dict.fromkeys(pair.names)) for pair in each.seeds)


def _sizes(finding: Finding) -> str:
    return _range([each.n for judged in finding.judged for each in judged.check.comparisons])


def _seeds(finding: Finding) -> str:
    return _range([len(each.seeds) for judged in finding.judged for each in judged.check.comparisons])


def _range(values: Sequence[int]) -> str:
    return "-" if not values else "-".join(str(value) for value in sorted({min(values), max(values)}))
