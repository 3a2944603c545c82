"""Distances to adversarial examples: tables, security curves, and comparisons of pipelines."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import numpy as np
import torch
from matplotlib.figure import Figure

from qra.evaluation.measured import Measured
from qra.evaluation.radii import Radii, RadiusPair, format_radius, paired_radii
from qra.evaluation.statistics import hodges_lehmann
from qra.palette import BLACK
from qra.report.cells import CellResult
from qra.report.judging import Check, Claim, meets
from qra.report.paired import Comparison, Gap, SeedPair, matched
from qra.report.pipelines import Pipeline
from qra.report.results import Results
from qra.report.style import SERIES, Drawing
from qra.report.tables import Entry, Table

LEAST = 10
"""Minimum number of shared examples that count to compare distances."""


def _found(pipeline: Pipeline) -> dict[str, tuple[Measured, tuple[Radii, ...]]]:
    """Return the distances of all cells of a pipeline, by attack, norm and pixel type in words."""
    cells = [_of_cell(cell) for cell in pipeline.cells]
    shared = (words for words in cells[0] if all(words in cell for cell in cells))
    return {words: (cells[0][words][0], tuple(cell[words][1] for cell in cells)) for words in shared}


def _of_cell(cell: CellResult) -> dict[str, tuple[Measured, Radii]]:
    """Return the distances of a cell; of several by one attack, those of the most examples."""
    found: dict[str, tuple[Measured, Radii]] = {}
    for name, radii in cell.radii.items():
        words = _words(cell.outcomes[name])
        if words not in found or len(radii.indices) > len(found[words][1].indices):
            found[words] = cell.outcomes[name], radii
    return found


def _words(outcome: Measured) -> str:
    norm, _, pixels = outcome.threat_model
    return ", ".join((outcome.kind, {"linf": "L-inf", "l2": "L2"}[norm], *(["bytes"] if pixels == "bytes" else [])))


def distances(results: Results) -> Table:
    """Return a table with a row for each pipeline and attack that searched for the nearest adversarial images."""
    rows: list[tuple[Entry, ...]] = []
    for pipeline in results.pipelines:
        for words, (outcome, found) in _found(pipeline).items():
            norm = outcome.threat_model.norm
            medians = [format_radius(each.median, norm) for each in found]
            low, high = (format_radius(value, norm) for value in found[0].summary()["quartiles"])
            counts = (sum(each.summary()[key] for each in found) for key in ("wrong", "censored"))
            sizes = "+".join(str(len(each.indices)) for each in found)
            rows.append((results.label(pipeline), pipeline.gradients, words, " + ".join(medians), f"{low} to {high}",
                         *map(str, counts), sizes))  # fmt: skip
    columns = ("pipeline", "gradients", "attack", "median", "quartiles", "wrong when clean", "not found", "n")
    note = (
        "Distance of the nearest adversarial image found, 0 if the clean image is misclassified: an upper bound of the "
        "true one. Medians of each seed; quartiles of the first."
    )
    return Table("distances", "Distances to adversarial images", columns, tuple(rows), note)


def security_curves(results: Results) -> tuple[Drawing, ...]:
    """Draw accuracy over every budget: the share of examples whose nearest adversarial image is farther away."""
    curves: dict[str, list[tuple[Pipeline, tuple[Radii, ...]]]] = {}
    for pipeline in results.main:
        for words, (_, found) in _found(pipeline).items():
            curves.setdefault(words, []).append((pipeline, found))
    return tuple(
        Drawing(f"security-{number}", f"Security curves, {words}", _CAPTION, _curves(results, found, "L-inf" in words))
        for number, (words, found) in enumerate(curves.items(), 1)
    )


_CAPTION = (
    "Accuracy over the budget of an attack that searches for the nearest adversarial image of each example; the mean "
    "over seeds. Other attacks may find nearer ones. Dashed lines: gradients are suspect, the true accuracy may be "
    "lower."
)


def _curves(results: Results, found: list[tuple[Pipeline, tuple[Radii, ...]]], in_levels: bool) -> Figure:
    unit = 255.0 if in_levels else 1.0
    figure = Figure(figsize=(7.2, 3.6 + 0.16 * len(found)), layout="constrained")
    axes = figure.add_subplot(ylabel="accuracy (%)", xlabel=f"eps ({'pixel levels of 255' if in_levels else 'L2'})")
    distances = (each.radius[each.found] for _, seeds in found for each in seeds)
    farthest = max((float(each.max()) for each in distances if len(each)), default=1.0)
    places = np.linspace(0, min(farthest, 32 / 255 if in_levels else farthest), 400)
    for number, (pipeline, seeds) in enumerate(found):
        values = [statistics.fmean(float(each.correct(eps).double().mean()) for each in seeds) for eps in places]
        color, _, line = (BLACK, "", "-") if pipeline.is_float else SERIES[number % len(SERIES)]
        line = "--" if pipeline.state == "suspect" else "-" if number < len(SERIES) else line
        axes.step(unit * places, 100 * np.array(values), where="post", color=color, linestyle=line, linewidth=1.3,
                  label=results.label(pipeline))  # fmt: skip
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=1)
    return figure


def quantization_brings_nearer(results: Results) -> Iterator[Check]:
    """Check whether adversarial images of quantized pipelines are nearer than those of their float counterparts."""
    for pipeline in results.quantized:
        original = results.reference(pipeline)
        if original is not None:
            for comparison in _compared(results, pipeline, original):
                yield Check.of(results.label(pipeline), meets("lower"), comparison)


def _compared(results: Results, first: Pipeline, second: Pipeline) -> Iterator[Comparison]:
    """Yield comparisons by each attack that searched for the nearest images of both, on the shared examples."""
    pairs = matched(first, second)
    if isinstance(pairs, Gap):
        return
    for words in [words for words in _found(first) if words in _found(second)]:
        made = [paired_radii(_of_cell(right)[words][1], _of_cell(left)[words][1]) for left, right in pairs]
        known = [pair for pair in made if pair is not None and int(pair.counts.sum()) >= LEAST]
        if len(known) < len(made) or len({pair.n for pair in known}) > 1:
            continue
        unit = statistics.fmean(pair.medians[0] for pair in known)
        if unit > 0:
            counts = torch.stack([pair.counts for pair in known]).any(0)
            mean, error = hodges_lehmann(torch.stack([pair.differences for pair in known]).mean(0)[counts] / unit)
            seeds = tuple(_seed_pair(cells, pair, unit) for cells, pair in zip(pairs, known, strict=True))
            share = statistics.fmean(pair.medians[1] for pair in known) / unit
            about = f"distance by {words}, in % of the second's median; p is Wilcoxon's"
            titles, states = (results.label(first), results.label(second)), (first.state, second.state)
            yield Comparison(titles, (about, about), (share, 1.0), known[0].n, mean, mean, error, seeds, states)


def _seed_pair(cells: tuple[CellResult, CellResult], pair: RadiusPair, unit: float) -> SeedPair:
    names, difference = (cells[0].name, cells[1].name), float(pair.differences.mean()) / unit
    return SeedPair(names, difference, pair.nearer, pair.farther, pair.p)


CLAIM = Claim(
    "quantization-brings-nearer",
    "Quantization brings adversarial examples nearer.",
    "a question of ours",
    "the smallest perturbations of examples, as far as an attack could find them, are smaller than those of the float "
    "network treated alike, by 2 % of its median or more",
    "smallest perturbations (callback/fmn) of quantized pipelines and of float ones treated alike",
    quantization_brings_nearer,
)
