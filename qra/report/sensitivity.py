"""Sensitivity of layers: clean and robust accuracy lost to other bit widths in single layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from qra.coordinates import OVERRIDES
from qra.evaluation.measured import Accuracy, ThreatModel
from qra.palette import BLACK, GREY
from qra.report.paired import CLEAN, Comparison, Gap, paired, paired_at
from qra.report.pipelines import Pipeline, grouped
from qra.report.results import Results
from qra.report.style import Drawing, label_width

_STYLES = ((GREY, "///"), (BLACK, None))


class Loss(NamedTuple):
    """Accuracy that a network loses to another, in points.

    Attributes:
        value: Accuracy without other bit widths in the layers minus that with them.
        error: Half-width of the 95 % interval of the paired difference; 0 if single examples are unknown.
    """

    value: float
    error: float


def sensitivity(results: Results) -> tuple[Drawing, ...]:
    """Draw bars of clean and robust loss for each set of layers, with the largest robust loss on top."""
    made: list[Drawing] = []
    for group in grouped(results.pipelines, OVERRIDES):
        whole = [pipeline for pipeline in group if not pipeline.text(OVERRIDES)]
        changed = [pipeline for pipeline in group if pipeline.text(OVERRIDES)]
        if results.headline is not None and len(whole) == 1 and len(changed) > 1:
            made.append(_drawing(results, whole[0], changed, f"sensitivity-{len(made) + 1}"))
    return tuple(made)


def _drawing(results: Results, whole: Pipeline, changed: Sequence[Pipeline], name: str) -> Drawing:
    measures = (None, results.headline)
    rows = {pipeline.text(OVERRIDES): [_loss(whole, pipeline, bounds) for bounds in measures] for pipeline in changed}
    order = sorted(rows, key=lambda layer: (rows[layer][1] or Loss(0, 0)).value)
    figure = Figure(figsize=(label_width(order) + 4.8, 0.36 * len(order) + 1.3), layout="constrained")
    axes = figure.add_subplot(xlabel="accuracy lost (points)")
    for number, title in enumerate(("clean", results.headline_title)):
        found = [(place, loss) for place, layer in enumerate(order) if (loss := rows[layer][number]) is not None]
        color, hatch = _STYLES[number]
        axes.barh(
            [place + 0.2 - 0.4 * number for place, _ in found], [loss.value for _, loss in found], height=0.4,
            xerr=[loss.error for _, loss in found], color=color, hatch=hatch, edgecolor="white", linewidth=0,
            error_kw={"elinewidth": 0.8, "capsize": 2}, label=title,
        )  # fmt: skip
    axes.set_yticks(range(len(order)), [layer.replace("=", " at ").replace(",", ", ") for layer in order])
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.grid(alpha=0.25, axis="x")
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=2)
    base = results.label(whole)
    counts = sorted({accuracy.n for bounds in measures if (accuracy := _accuracy(whole, bounds))})
    caption = (
        f"Accuracy that {base} loses when these layers alone have other bits, with paired intervals at 95 % "
        f"(n = {' and '.join(f'{n:,}' for n in counts)}). Left of 0 it gains."
    )
    return Drawing(name, f"Sensitivity of {base}, layer by layer", caption, figure)


def _accuracy(pipeline: Pipeline, bounds: ThreatModel | None) -> Accuracy | None:
    """Return the robust accuracy under a threat model, or the clean accuracy without one."""
    return pipeline.clean if bounds is None else pipeline.robust(bounds)


def _loss(whole: Pipeline, changed: Pipeline, bounds: ThreatModel | None) -> Loss | None:
    clean = bounds is None
    compared = paired(whole, changed, ("", ""), (CLEAN, CLEAN)) if clean else paired_at(bounds, whole, changed)
    if compared is Gap.EXAMPLES:
        return None
    if isinstance(compared, Comparison):
        return Loss(100 * compared.mean, 100 * 1.96 * compared.error)
    before, after = _accuracy(whole, bounds), _accuracy(changed, bounds)
    return None if before is None or after is None else Loss(100 * (before.value - after.value), 0.0)
