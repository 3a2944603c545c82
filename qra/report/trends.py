"""Accuracy over any numeric axis of a study."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qra.coordinates import Axis
from qra.evaluation.doubt import worst_state
from qra.evaluation.measured import Accuracy
from qra.report.labels import shortened
from qra.report.pipelines import Pipeline, axis_title
from qra.report.results import Results
from qra.report.style import INITS, MARKS, Drawing, bits_color, face, training_marker, value_axis

TITLES: dict[str, tuple[str, str]] = {
    Axis.FRACTION: ("data-size", "share of the training data (%)"),
    Axis.CALIBRATION_SIZE: ("calibration-size", "calibration images"),
}
"""File name and title of axes that every study has."""
OTHERS = (Axis.WEIGHT_BITS, Axis.ACT_BITS, Axis.SEED)
"""Numeric axes that other figures, or intervals, show."""
LINES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (3, 1, 1, 1)))
WIDE = 50
"""Length of a label, in characters, from which on a legend has one column."""


def trends(results: Results) -> tuple[Drawing, ...]:
    """Draw clean and robust accuracy over each numeric axis, with a line for each pipeline."""
    axes = sorted({axis for pipeline in results.pipelines for axis in pipeline.coordinates} - set(OTHERS))
    return tuple(drawing for axis in axes if (drawing := _over(results, axis)) is not None)


def _over(results: Results, axis: str) -> Drawing | None:
    groups: dict[object, list[Pipeline]] = {}
    for pipeline in results.pipelines:
        if pipeline.number(axis) is not None and (axis != Axis.FRACTION or pipeline.was_trained):
            groups.setdefault((_label(results, pipeline, axis), pipeline.apart_from(axis)), []).append(pipeline)
    drawn = [found for found in groups.values() if len({p.number(axis) for p in found}) > 1]
    lines = dict(zip(shortened([_label(results, found[0], axis) for found in drawn]), drawn, strict=True))
    if not lines or results.headline is None:
        return None
    columns = 2 if max(map(len, lines)) < WIDE else 1
    figure = Figure(figsize=(7.6, 3.2 + 0.2 * -(-len(lines) // columns)), layout="constrained")
    name, title = TITLES.get(axis, (f"over-{re.sub(r'[^a-z0-9]+', '-', axis.lower()).strip('-')}", axis_title(axis)))
    measures: tuple[tuple[str, _Measure], ...] = (
        ("clean", lambda pipeline: pipeline.clean),
        (results.headline_title, lambda pipeline: pipeline.robust(results.headline)),
    )
    ticks = {place: words for found in lines.values() for p in found for place, words in [_tick(p, axis)]}
    for axes, (heading, measure) in zip(figure.subplots(1, 2, squeeze=False).flat, measures, strict=True):
        styles: list[tuple[str, str, object]] = []
        for label, found in lines.items():
            styles.append(_style(found[0], styles))
            _line(axes, sorted(found, key=lambda p: p.number(axis) or 0), axis, measure, styles[-1], label)
        value_axis(axes, ticks)
        axes.set(xlabel=title, ylabel="accuracy (%)", title=heading)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    caption = f"Accuracy over {title}, with intervals at 95 %; the mean over seeds. {MARKS}"
    return Drawing(name, f"Accuracy over {title}", caption, figure)


def _label(results: Results, pipeline: Pipeline, axis: str) -> str:
    """Return a pipeline in words, in full except for one axis."""
    return ", ".join(word for word in results.words(pipeline) if word != pipeline.word(axis))


_Measure = Callable[[Pipeline], Accuracy | None]


def _tick(pipeline: Pipeline, axis: str) -> tuple[float, str]:
    """Return the position of a pipeline on an axis, and the label of the tick there."""
    value = pipeline.number(axis) or 0.0
    return (100 * value, f"{100 * value:g}") if axis == Axis.FRACTION else (value, pipeline.text(axis))


def _style(pipeline: Pipeline, taken: Sequence[tuple[str, str, object]]) -> tuple[str, str, object]:
    """Return colour by bits, marker by training and line by start, or another line if that combination is taken."""
    color, marker = bits_color(pipeline.bits), training_marker(pipeline)
    wanted = [(color, marker, line) for line in (INITS.get(pipeline.text(Axis.INIT), "-"), *LINES)]
    return next((style for style in wanted if style not in taken), wanted[0])


def _line(
    axes: Axes, found: Sequence[Pipeline], axis: str, measure: _Measure, style: tuple[str, str, object], label: str
) -> None:
    points = [(p, accuracy) for p in found if (accuracy := measure(p)) is not None]
    color, marker, line = style
    axes.errorbar(
        [_tick(p, axis)[0] for p, _ in points], [100 * accuracy.value for _, accuracy in points],
        _bars([accuracy for _, accuracy in points]), color=color, marker=marker, linestyle=line, label=label,
        markersize=5, linewidth=1.3, elinewidth=0.8, capsize=2,
        markerfacecolor=face(color, worst_state(p.state for p, _ in points)),
    )  # fmt: skip


def _bars(accuracies: Sequence[Accuracy]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return the lengths of error bars below and above, in percent, (2, N)."""
    lengths = [(each.value - each.interval[0], each.interval[1] - each.value) for each in accuracies]
    return 100 * np.array(lengths, dtype=np.float64).reshape(-1, 2).T.clip(0)
