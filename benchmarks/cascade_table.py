"""The tables and the figure of ``docs/results.md`` on AutoAttack's survivors among networks with rounding.

Usage: ``python benchmarks/cascade_table.py RUNS``, where RUNS has a run directory NAME for each network below, tested
    by the commands on that page. Missing runs are reported. The tables are written between two marks in the page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import fill

from matplotlib.figure import Figure
from results_page import NETWORKS, PAGE, PARENT, ROOT, between_marks, missing

from qra.evaluation.outcome import Examples, read_correct
from qra.evaluation.statistics import mcnemar, shared, wilson_interval
from qra.palette import BLACK, BLUE, ORANGE

FIGURE = ROOT / "docs/results/rounding-cascade.png"
ATTACKS = {"pgd20_8": "PGD-20", "autoattack_8": "AutoAttack", "rounding_cascade_8": "rounding cascade"}

Found = Mapping[str, Mapping[str, Examples]]


def main(runs: Path) -> None:
    files = {name: runs / name / "correct.npz" for name in NETWORKS}
    found = {name: read_correct(file) for name, file in files.items() if file.exists()}
    tables = [*left(found), "", *against_parent(found), *missing(found)]
    between_marks(PAGE, Path(__file__).name, tables)
    drawn(found).savefig(FIGURE, dpi=150)


def left(found: Found) -> Iterator[str]:
    """Yield the table of accuracies under the attacks, and of what the cascade breaks beyond AutoAttack."""
    yield "| network | bits | n | PGD-20 | AutoAttack | after `unrounded` | rounding cascade | lost | gained | p |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name, examples in found.items():
        steps = [*ATTACKS, "rounding_cascade_8.unrounded"]
        indices, (pgd, autoattack, cascade, unrounded) = shared([examples[step] for step in steps])
        n, kept = len(indices), int(cascade.sum())
        low, high = (100 * end for end in wilson_interval(kept, n))
        lost, gained = int((autoattack & ~cascade).sum()), int((cascade & ~autoattack).sum())
        shares = " | ".join(f"{100 * float(each.double().mean()):.1f}" for each in (pgd, autoattack, unrounded))
        yield (
            f"| {' | '.join(NETWORKS[name])} | {n} | {shares} | {100 * kept / n:.1f} [{low:.1f}, {high:.1f}] "
            f"| {lost} | {gained} | {mcnemar(lost, gained):.2g} |"
        )


def against_parent(found: Found) -> Iterator[str]:
    """Yield the table of each network's loss of robust accuracy against its float parent, in points, by attack."""
    if PARENT not in found:
        return
    yield "| less than the float parent | bits | n | " + " | ".join(ATTACKS.values()) + " |"
    yield "|---|---|---|---|---|---|"
    for name in (name for name in found if name != PARENT):
        cells, n = [], 0
        for attack in ATTACKS:
            indices, (parent, own) = shared([found[PARENT][attack], found[name][attack]])
            n = len(indices)
            lost, gained = int((parent & ~own).sum()), int((own & ~parent).sum())
            cells.append(
                f"{100 * (lost - gained) / n:.1f} ({lost} lost, {gained} gained, p = {mcnemar(lost, gained):.2g})"
            )
        yield f"| {' | '.join(NETWORKS[name])} | {n} | {' | '.join(cells)} |"


def drawn(found: Found) -> Figure:
    """Plot robust accuracy by bit width under the three attacks, with 95 % intervals."""
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.add_subplot(ylabel="robust accuracy at 8/255 (%)")
    styles = zip(ATTACKS.items(), (BLACK, BLUE, ORANGE), ("s", "o", "D"), strict=True)
    for place, ((attack, title), colour, marker) in enumerate(styles):
        counts = [(int(examples[attack][1].sum()), len(examples[attack][1])) for examples in found.values()]
        values = [100 * kept / n for kept, n in counts]
        ends = [[100 * end for end in wilson_interval(kept, n)] for kept, n in counts]
        errors = [
            [value - low for value, (low, _) in zip(values, ends, strict=True)],
            [high - value for value, (_, high) in zip(values, ends, strict=True)],
        ]
        places = [number + 0.2 * (place - 1) for number in range(len(found))]
        axes.errorbar(places, values, errors, fmt=marker, color=colour, capsize=3, label=title)
    sizes = {name: len(examples["pgd20_8"][1]) for name, examples in found.items()}
    labels = [f"{NETWORKS[name][1]}\n{fill(NETWORKS[name][0], 10)}\nn = {n}" for name, n in sizes.items()]
    axes.set_xticks(range(len(found)), labels)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


if __name__ == "__main__":
    main(Path(sys.argv[1]))
