"""Robust accuracy over budgets by bit width, and the heat map of the grid."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qra.coordinates import Axis
from qra.evaluation.doubt import State
from qra.palette import BLACK
from qra.quant.scheme import OFF
from qra.report.labels import shortened
from qra.report.pipelines import Pipeline
from qra.report.results import Results
from qra.report.style import MARKS, SERIES, Drawing, bits_style, budget_axis, face, label_width

PANELS = 12
"""Maximum number of panels in a figure."""
MISSING = "#DDDDDD"


def robustness_curves(results: Results) -> tuple[Drawing, ...]:
    """Draw a panel for each pipeline with a line for each bit width, and the float counterpart in black."""
    attack = _longest_curve(results)
    if attack is None:
        return ()
    panels: dict[_Row, list[Pipeline]] = {}
    for pipeline in results.quantized:
        if len(_curve(results, pipeline, attack)) > 1:
            panels.setdefault(_panel(results, pipeline), []).append(pipeline)
    if not panels:
        panels = {("float", ""): [pipeline for pipeline in results.main if len(_curve(results, pipeline, attack)) > 1]}
    titles = shortened([title for title, _ in panels])
    items = [item for item in zip(titles, panels.values(), strict=True) if item[1]]
    pages = [items[start : start + PANELS] for start in range(0, len(items), PANELS)]
    caption = (
        f"Accuracy under {attack} over its budget, with the interval at 95 % as a band; the mean over seeds. {MARKS}"
    )
    return tuple(
        Drawing(f"curves-{number}", "Robustness curves", caption, _page(results, attack, page))
        for number, page in enumerate(pages, 1)
    )


def _longest_curve(results: Results) -> str | None:
    """Return the kind of unmodified attack run at the most L-inf budgets, at two or more; None if there is none."""
    counts = Counter(
        kind
        for bounds in map(results.at, results.levels)
        if bounds is not None
        for kind in results.kinds(bounds)
        if not any(each.is_modified for each in results.attacks(bounds, kind))
    )
    longest = max(counts, key=lambda kind: (counts[kind], kind), default=None)
    return longest if longest is not None and counts[longest] > 1 else None


def _curve(results: Results, pipeline: Pipeline, kind: str) -> dict[float, tuple[float, float, float]]:
    """Return accuracy and interval in percent for each budget; at 0 the accuracy on clean images."""
    under = {level: pipeline.under(bounds, kind) for level in results.levels if (bounds := results.at(level))}
    found = {0.0: pipeline.clean, **under}
    return {
        level: (100 * accuracy.value, 100 * accuracy.interval[0], 100 * accuracy.interval[1])
        for level, accuracy in found.items()
        if accuracy is not None
    }


_Row = tuple[str, str]
"""Identity of a pipeline apart from its bits: in words, and exactly, as two may read alike."""


def _panel(results: Results, pipeline: Pipeline) -> _Row:
    """Return the identity of a pipeline apart from its bits, with which side is quantized."""
    weights, activations = pipeline.bits
    side = "weights only, " if activations == OFF else "activations only, " if weights == OFF else ""
    _, *words = results.words(pipeline, in_main=True)
    return f"{pipeline.quantizer}, {side}" + ", ".join(words), _without_bits(pipeline)


def _without_bits(pipeline: Pipeline) -> str:
    return str(pipeline.apart_from(Axis.WEIGHT_BITS, Axis.ACT_BITS))


def _page(results: Results, attack: str, panels: Sequence[tuple[str, list[Pipeline]]]) -> Figure:
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.3 * columns + 0.4, 2.5 * rows + 0.8), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for (title, found), axes in zip(panels, grid.flat, strict=False):
        axes.set_title(title.replace(", ", "\n", 1), loc="left")
        for place, pipeline in enumerate(sorted(found, key=_widths, reverse=True)):
            label = results.label(pipeline) if pipeline.is_float else _bits_label(_widths(pipeline))
            _, marker, line = SERIES[place % len(SERIES)]
            style = (BLACK, marker, line) if pipeline.is_float else bits_style(pipeline.bits)
            _draw(axes, _curve(results, pipeline, attack), style, label, pipeline.state)
        originals = {id(original): original for p in found if not p.is_float and (original := results.reference(p))}
        compared = {level for pipeline in found for level in _curve(results, pipeline, attack)}
        for original in originals.values():
            curve = {level: at for level, at in _curve(results, original, attack).items() if level in compared}
            _draw(axes, curve, (BLACK, "", "-"), "float, treated alike", "sound")
        budget_axis(axes, results.levels)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    for column in range(columns):
        lowest = grid[(len(panels) - 1 - column) // columns, column]
        lowest.set_xlabel("budget eps of the attack (pixel levels of 255)")
        lowest.tick_params(labelbottom=True)
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy (%)")
    _legend_below(figure, list(grid.flat))
    return figure


def _widths(pipeline: Pipeline) -> tuple[int, ...]:
    """Return the bit widths that are not off; ``(OFF,)`` if both are."""
    return tuple(width for width in pipeline.bits if width != OFF) or (OFF,)


def _bits_label(widths: tuple[int, ...]) -> str:
    return f"{widths[0]} bits" if len(set(widths)) == 1 else "W{}A{}".format(*widths)


def _draw(
    axes: Axes, curve: dict[float, tuple[float, float, float]], style: tuple[str, str, object], label: str, state: State
) -> None:
    if not curve:
        return
    color, marker, line = style
    levels, values = list(curve), np.array(list(curve.values()))
    axes.plot(
        levels, values[:, 0], color=color, marker=marker, linestyle=line, label=label, markersize=4.5, linewidth=1.3,
        markerfacecolor=face(color, state),
    )  # fmt: skip
    axes.fill_between(levels, values[:, 1], values[:, 2], color=color, alpha=0.15, linewidth=0)


def _legend_below(figure: Figure, panels: Sequence[Axes]) -> None:
    """Draw one legend for all panels, below them, with each label once."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        for line in axes.get_lines():
            color, marker, style = line.get_color(), line.get_marker(), line.get_linestyle()
            entries.setdefault(str(line.get_label()), Line2D([], [], color=color, marker=marker, linestyle=style))
    names = sorted(entries, key=_by_width)
    figure.legend([entries[name] for name in names], names, loc="outside lower center", ncols=min(len(entries), 6))


def _by_width(label: str) -> tuple[object, ...]:
    """Return the sort key of labels in legends: from many bits to few, and labels without a bit width last."""
    digits = [int(number) for number in re.findall(r"\d+", label)] if re.match(r"W?\d", label) else []
    return not digits, [-number for number in digits], label


def heat_map(results: Results) -> tuple[Drawing, ...]:
    """Draw robust accuracy with start, training and quantizer in rows and bit widths in columns."""
    chosen = [pipeline for pipeline in results.quantized if pipeline.robust(results.headline) is not None]
    if not chosen:
        return ()
    columns = sorted({pipeline.bits for pipeline in chosen}, reverse=True, key=lambda bits: (OFF not in bits, bits))
    rows = sorted({_row(results, pipeline) for pipeline in chosen})
    titles = shortened([title for title, _ in rows])
    values = np.full((len(rows), len(columns)), np.nan)
    marks = np.full(values.shape, "", dtype=object)
    for pipeline in chosen:
        accuracy = pipeline.robust(results.headline)
        place = rows.index(_row(results, pipeline)), columns.index(pipeline.bits)
        values[place] = 100 * accuracy.value if accuracy else np.nan
        marks[place] = {"suspect": "?", "not judged": "*", "sound": ""}[pipeline.state]
    width = label_width(titles) + 0.6 * len(columns) + 1.2
    figure = Figure(figsize=(max(width, 5), max(0.27 * len(rows) + 1.2, 2.2)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor(MISSING)
    top = max(10.0, float(np.nanmax(values)))
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=top, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            color = "black" if value > 0.55 * top else "white"
            text = f"{value:.1f}{marks[row, column]}"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(range(len(columns)), [f"W{weights}\nA{activations}" for weights, activations in columns])
    axes.set_yticks(range(len(rows)), titles)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, label="robust accuracy (%)", fraction=0.05)
    caption = (
        f"Accuracy under {results.headline_title}, in percent; the mean over seeds. Grey: no such cell. "
        "Question mark: gradients are suspect, the true accuracy may be lower. Asterisk: gradients were not judged."
    )
    return (Drawing("heat-map", "Start, training and quantizer, by bits", caption, figure),)


def _row(results: Results, pipeline: Pipeline) -> _Row:
    """Return the identity of a pipeline apart from its bits, start and training first, so that equal ones adjoin."""
    _, *words = results.words(pipeline, in_main=True)
    return ", ".join((*words, pipeline.quantizer)), _without_bits(pipeline)
