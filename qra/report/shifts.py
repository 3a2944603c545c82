"""Accuracy of pipelines on corrupted images, and whether quantization lowers it."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

import torch
from torch import Tensor

from qra.evaluation.measured import Accuracy
from qra.evaluation.shifts import Shift, by_shift, corruption_means
from qra.evaluation.statistics import shared, wilcoxon
from qra.report.cells import CellResult
from qra.report.judging import Check, Claim, meets
from qra.report.paired import LEAST_SHARED, Comparison, Gap, SeedPair, centre_and_error, matched
from qra.report.pipelines import Pipeline
from qra.report.results import Results
from qra.report.tables import Entry, Number, Table


def _accuracies(pipeline: Pipeline) -> dict[Shift, Accuracy]:
    """Return the mean accuracy over seeds under each corruption and severity that all cells have."""
    cells = [by_shift(cell.outcomes.values()) for cell in pipeline.cells]
    shared = [shift for shift in cells[0] if all(shift in cell for cell in cells)]
    n = {shift: min(cell[shift].accuracy.n for cell in cells) for shift in shared}
    return {shift: Accuracy(fmean(cell[shift].accuracy.value for cell in cells), n[shift]) for shift in shared}


def corrupted(results: Results) -> Table:
    """Return a table with a row for each pipeline: clean accuracy, that on corrupted images, and by corruption."""
    found = {id(pipeline): _accuracies(pipeline) for pipeline in results.pipelines}
    names = list(dict.fromkeys(shift.corruption for accuracies in found.values() for shift in accuracies))
    rows: list[tuple[Entry, ...]] = []
    for pipeline in results.pipelines:
        means = corruption_means(found[id(pipeline)])
        if means:
            cells = (Number(100 * means[name] if name in means else None) for name in names)
            seen = ", ".join(map(str, sorted({shift.severity for shift in found[id(pipeline)]})))
            n = str(min(accuracy.n for accuracy in found[id(pipeline)].values()))
            mean = Number(100 * fmean(means.values()))
            rows.append((results.label(pipeline), pipeline.clean or "-", mean, *cells, seen, n))
    columns = ("pipeline", "clean", "corrupted", *names, "severities", "n of each")
    note = (
        "Accuracy in percent on images with natural corruptions, without an attacker: the mean over severities for "
        "each corruption, and the mean of these; for several seeds, their mean."
    )
    return Table("corrupted", "Accuracy on corrupted images", columns, tuple(rows), note)


def quantization_costs(results: Results) -> Iterator[Check]:
    """Check each quantized pipeline against its float counterpart, on corrupted images."""
    for pipeline in results.quantized:
        original = results.reference(pipeline)
        if original is not None and _accuracies(pipeline) and _accuracies(original):
            yield Check.of(results.label(pipeline), meets("lower"), _compared(results, pipeline, original))


def _compared(results: Results, first: Pipeline, second: Pipeline) -> Comparison | Gap:
    """Compare, per image, the share of corruptions and severities classified correctly, on the shared images."""
    pairs = matched(first, second)
    if isinstance(pairs, Gap):
        return pairs
    shifts = [shift for shift in _accuracies(first) if shift in _accuracies(second)]
    if len({_images(cell, shifts) for pair in pairs for cell in pair}) > 1:
        return Gap.DATA
    sides = [[_shares(cell, shifts) for cell in pair] for pair in pairs]
    known = [side for pair in sides for side in pair if side is not None]
    if len(known) < 2 * len(pairs):
        return Gap.FILES
    indices, shares = shared(known)
    if len(indices) < LEAST_SHARED:
        return Gap.EXAMPLES
    values = shares.numpy()
    lefts, rights = values[::2], values[1::2]
    centre, error = centre_and_error(lefts - rights, 1.0)
    seeds = tuple(
        SeedPair((a.name, b.name), float((left - right).mean()), int((left < right).sum()), int((left > right).sum()),
                 wilcoxon(torch.from_numpy((left - right).round(6))))
        for (a, b), left, right in zip(pairs, lefts, rights, strict=True)
    )  # fmt: skip
    about = f"mean of {len(shifts)} corruptions and severities; p is Wilcoxon's"
    accuracies = float(lefts.mean()), float(rights.mean())
    mean, titles = accuracies[0] - accuracies[1], (results.label(first), results.label(second))
    return Comparison(titles, (about, about), accuracies, len(indices), mean, centre, error, seeds, ("sound", "sound"))


def _images(cell: CellResult, shifts: list[Shift]) -> tuple[str, ...]:
    """Return the hashes of the images that a cell saw under given shifts, as other files may have the same names."""
    outcomes = by_shift(cell.outcomes.values())
    return tuple(str(outcomes[shift].attack.get("data")) for shift in shifts)


def _shares(cell: CellResult, shifts: list[Shift]) -> tuple[Tensor, Tensor] | None:
    """Return the positions of images that a cell saw under all given shifts, and the share it got right of each."""
    outcomes = by_shift(cell.outcomes.values())
    examples = [cell.per_example.get(outcomes[shift].name) for shift in shifts]
    known = [each for each in examples if each is not None]
    if not known or len(known) < len(shifts):
        return None
    indices, correct = shared(known)
    return indices, correct.double().mean(0)


CLAIM = Claim(
    "quantization-costs-natural-robustness",
    "Quantization costs accuracy on corrupted images.",
    "a question of ours; corruptions of Hendrycks and Dietterich 2019 (arXiv 1903.12261)",
    "on the same corrupted images the quantized network is less accurate than the float network treated alike, in the "
    "mean over corruptions and severities",
    "corrupted images (callback/corruptions) tested with quantized pipelines and with float ones treated alike",
    quantization_costs,
)
