"""The table and the figure of ``docs/results.md`` on corrupted images.

Usage: ``python benchmarks/corruption_table.py RUNS``, where RUNS has a run directory NAME for each network below,
    tested by the commands on that page. The table is written between two marks in the page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure
from results_page import PAGE, ROOT, between_marks

from qra.evaluation.outcome import Examples, read_correct
from qra.evaluation.statistics import shared, wilcoxon, wilson_interval
from qra.palette import BLUE, ORANGE

FIGURE = ROOT / "docs/results/corrupted.png"
NETWORKS = {
    "float-plain": ("plain", "W32A32"),
    "pact-w4a4-plain": ("plain, PACT", "W4A4"),
    "float-at": ("adversarial, PGD-3", "W32A32"),
    "pact-w4a4-at": ("adversarial, PGD-3, PACT", "W4A4"),
}
PARENTS = {"pact-w4a4-plain": "float-plain", "pact-w4a4-at": "float-at"}
CORRUPTIONS = {"gaussian_noise": "noise", "gaussian_blur": "blur", "contrast": "contrast"}
SEVERITIES = (1, 2, 3)
SHIFTS = [f"shift_{name}_{severity}" for name in CORRUPTIONS for severity in SEVERITIES]

Found = Mapping[str, Mapping[str, Examples]]


def main(runs: Path) -> None:
    found = {name: read_correct(runs / name / "correct.npz") for name in NETWORKS}
    between_marks(PAGE, Path(__file__).name, table(found))
    drawn(found).savefig(FIGURE, dpi=150)


def table(found: Found) -> Iterator[str]:
    """Yield a row per network: accuracy under each corruption, and for quantized ones a comparison with the parent."""
    names = " | ".join(f"{name} {', '.join(map(str, SEVERITIES))}" for name in CORRUPTIONS.values())
    yield f"| network | bits | clean | {names} | mean | worse / better images, p |"
    yield f"|{'---|' * (len(CORRUPTIONS) + 5)}"
    for name, examples in found.items():
        values = [100 * float(examples[shift][1].double().mean()) for shift in SHIFTS]
        some = [values[at : at + len(SEVERITIES)] for at in range(0, len(values), len(SEVERITIES))]
        cells = [", ".join(f"{value:.1f}" for value in each) for each in some]
        clean = 100 * float(examples["clean"][1].double().mean())
        against = beside_parent(found[PARENTS[name]], examples) if name in PARENTS else ""
        mean = sum(values) / len(values)
        yield f"| {' | '.join(NETWORKS[name])} | {clean:.1f} | {' | '.join(cells)} | {mean:.1f} | {against} |"


def beside_parent(parent: Mapping[str, Examples], examples: Mapping[str, Examples]) -> str:
    """Return how many images are right under fewer and more corruptions than with the parent, and Wilcoxon's p."""
    _, correct = shared([each[shift] for each in (parent, examples) for shift in SHIFTS])
    before, after = torch.split(correct.double(), len(SHIFTS))
    change = (after.sum(0) - before.sum(0)) / len(SHIFTS)
    return f"{int((change < 0).sum())} / {int((change > 0).sum())}, {wilcoxon(change):.2g}"


def drawn(found: Found) -> Figure:
    """Plot accuracy by severity with 95 % intervals, one panel per corruption, starting from the same clean images."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, len(CORRUPTIONS), sharey=True)
    styles = {"float-plain": (ORANGE, "-", "s"), "pact-w4a4-plain": (ORANGE, "--", "D"),
              "float-at": (BLUE, "-", "s"), "pact-w4a4-at": (BLUE, "--", "D")}  # fmt: skip
    for axes, (corruption, title) in zip(panels, CORRUPTIONS.items(), strict=True):
        for place, (name, (colour, line, marker)) in enumerate(styles.items()):
            shifts = [found[name][f"shift_{corruption}_{severity}"] for severity in SEVERITIES]
            _, (clean, _) = shared([found[name]["clean"], shifts[0]])
            correct = [clean, *(each for _, each in shifts)]
            values = [100 * float(each.double().mean()) for each in correct]
            ends = [wilson_interval(int(each.sum()), len(each)) for each in correct]
            errors = [[value - 100 * low for value, (low, _) in zip(values, ends, strict=True)],
                      [100 * high - value for value, (_, high) in zip(values, ends, strict=True)]]  # fmt: skip
            places = [number + 0.06 * (place - 1.5) for number in range(len(values))]
            axes.errorbar(places, values, errors, color=colour, ls=line, marker=marker, ms=4, capsize=2,
                          label=", ".join(NETWORKS[name]))  # fmt: skip
        axes.set(title=title, xlabel="severity", xticks=range(len(SEVERITIES) + 1), ylim=(0, 100))
        axes.set_xticklabels(["clean", *map(str, SEVERITIES)])
        axes.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("accuracy (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


if __name__ == "__main__":
    main(Path(sys.argv[1]))
