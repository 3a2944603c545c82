"""Trade-offs: clean against robust, cost against robust, data against robust, one attack against another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from qra.coordinates import Axis
from qra.durations import duration
from qra.evaluation.doubt import State, worst_state
from qra.evaluation.measured import Accuracy
from qra.palette import BLACK, GREY
from qra.quant.scheme import OFF
from qra.report.contents import GIGA, KIB, attack_kinds, costs
from qra.report.pareto import Offer, front, offers
from qra.report.pipelines import Pipeline, Results, training_title
from qra.report.style import INITS, MARKS, SERIES, Drawing, face, label_width, log_axis, training_style
from qra.report.tables import Number

UNITS = (("h", 3600.0), ("min", 60.0), ("s", 1.0))
WIDE = 50
"""Letters of a label from which on a legend has one column."""
WEAK = 2.0
"""Pixel levels of the weak budget that attacks are shown at."""
ROWS = 36
"""Pipelines of one panel of attacks side by side."""


def clean_against_robust(results: Results) -> tuple[Drawing, ...]:
    """A point for each pipeline; lines join the bit widths of one."""
    points = {}
    for pipeline in results.main:
        clean, robust = pipeline.clean, pipeline.robust(results.headline)
        if clean and robust:
            points[id(pipeline)] = (pipeline, 100 * clean.value, 100 * robust.value)
    if not points:
        return ()
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot(xlabel="clean accuracy (%)", ylabel=_robust_title(results))
    lines: dict[tuple[str, ...], list[tuple[Pipeline, float, float]]] = {}
    for point in points.values():
        key = tuple(point[0].text(axis) for axis in (Axis.INIT, Axis.QUANTIZER, Axis.TRAINING))
        if OFF not in point[0].bits:
            lines.setdefault(key, []).append(point)
    for (init, *_), line in lines.items():
        line.sort(key=lambda point: point[0].bits)
        color, _ = training_style(line[0][0])
        if len(line) > 1:
            axes.plot(*zip(*(point[1:] for point in line), strict=True), color=color, linewidth=0.7,
                      linestyle=INITS.get(init, "-."), alpha=0.6)  # fmt: skip
    for pipeline, x, y in points.values():
        _point(axes, pipeline, x, y)
    axes.grid(alpha=0.25)
    axes.margins(0.06)
    joined = {key[0] for key, line in lines.items() if len(line) > 1}
    handles = _legend([pipeline for pipeline, _, _ in points.values()]) + _line_legend(joined)
    figure.legend(handles=handles, loc="outside right upper")
    caption = (
        "Each point is a pipeline, the mean over seeds: the larger, the more bits. Lines join the bit widths of one "
        f"pipeline. {MARKS}"
    )
    return (Drawing("clean-robust", "Clean against robust accuracy", caption, figure),)


def _robust_title(results: Results) -> str:
    return f"robust accuracy (%)\n{results.headline_title}"


def _point(axes: Axes, pipeline: Pipeline, x: float, y: float) -> None:
    color, marker = training_style(pipeline)
    size = 90 if pipeline.is_float else 20 + 5 * min(sum(min(width, 8) for width in pipeline.bits), 16) / 2
    edge = BLACK if pipeline.is_float else "white" if pipeline.state == "sound" else color
    width = 0.6 if not pipeline.is_float and pipeline.state == "sound" else 1.2
    axes.scatter(
        [x], [y], size, color=face(color, pipeline.state), marker=marker, edgecolors=edge, linewidths=width, zorder=3
    )


def _legend(pipelines: Sequence[Pipeline]) -> list[Line2D]:
    trainings = {pipeline.text(Axis.TRAINING): training_style(pipeline) for pipeline in pipelines}
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", label=training_title(training))
        for training, (color, marker) in trainings.items()
    ]
    if any(pipeline.is_float for pipeline in pipelines):
        handles.append(Line2D([], [], color=GREY, marker="o", markeredgecolor=BLACK, markeredgewidth=1.4, markersize=9,
                              linestyle="", label="float (black edge)"))  # fmt: skip
    in_doubt = sorted({pipeline.state for pipeline in pipelines if pipeline.state != "sound"}, reverse=True)
    return handles + [
        Line2D([], [], color=GREY, marker="o", markerfacecolor=face(GREY, state), linestyle="", label=state)
        for state in in_doubt
    ]


def _line_legend(inits: Collection[str]) -> list[Line2D]:
    known = [(init, style) for init, style in INITS.items() if init in inits]
    return [Line2D([], [], color=GREY, linestyle=style, label=f"{init} start") for init, style in known]


def pareto_fronts(results: Results) -> tuple[Drawing, ...]:
    """Robust accuracy against model size, and against BitOPs."""
    kinds = (("pareto-size", "model size (KiB)", "size_in_bits", KIB), ("pareto-bitops", "GBitOPs", "bit_ops", GIGA))
    made = []
    for name, title, cost, unit in kinds:
        choices = offers(results, cost, unit)
        if len(choices) > 1:
            figure = _front(results, choices, title)
            made.append(Drawing(name, f"Robust accuracy against {title}", _front_caption(), figure))
    return tuple(made)


def _front_caption() -> str:
    return (
        "Each point is a pipeline, the mean over seeds. The line passes through those that nothing of equal or smaller "
        f"cost beats; suspect ones are not recommended. {MARKS}"
    )


def _front(results: Results, choices: Sequence[Offer], title: str) -> Figure:
    best = front(choices)
    figure = Figure(figsize=(7.2, 3.6 + 0.2 * len(best)), layout="constrained")
    axes = figure.add_subplot(xlabel=title, ylabel=_robust_title(results))
    for offer in choices:
        _point(axes, offer.pipeline, offer.cost, 100 * offer.robust)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    ends = [*(offer.cost for offer in best), max(offer.cost for offer in choices)]
    heights = [100 * offer.robust for offer in best]
    if best:
        axes.step(ends, [*heights, heights[-1]], where="post", color=BLACK, linewidth=1, zorder=2)
    for number, offer in enumerate(best, 1):
        axes.annotate(
            str(number), (offer.cost, 100 * offer.robust), xytext=(-7, 5), textcoords="offset points", ha="right",
            fontweight="bold",
        )  # fmt: skip
    axes.grid(alpha=0.25)
    axes.margins(0.08, 0.1)
    figure.legend(handles=_legend([offer.pipeline for offer in choices]), loc="outside right upper")
    listed = [f"{number}  {results.label(offer.pipeline)}" for number, offer in enumerate(best, 1)]
    figure.supxlabel("\n".join(listed), fontsize=8, x=0.02, ha="left")
    return figure


def data_size(results: Results) -> tuple[Drawing, ...]:
    """Accuracy over the share of the training data."""
    return _over(results, Axis.FRACTION, "data-size", "share of the training data (%)", 100)


def calibration_size(results: Results) -> tuple[Drawing, ...]:
    """Accuracy over the number of calibration images."""
    return _over(results, Axis.CALIBRATION_SIZE, "calibration-size", "calibration images")


def _over(results: Results, axis: str, name: str, title: str, scale: float = 1) -> tuple[Drawing, ...]:
    lines: dict[str, list[Pipeline]] = {}
    for pipeline in results.pipelines:
        if (pipeline.number(axis) or 0) > 0:
            label = ", ".join(word for word in results.label(pipeline).split(", ") if word != pipeline.word(axis))
            lines.setdefault(label, []).append(pipeline)
    lines = {label: found for label, found in lines.items() if len(found) > 1}
    if not lines or results.headline is None:
        return ()
    columns = 2 if max(map(len, lines)) < WIDE else 1
    figure = Figure(figsize=(7.6, 3.2 + 0.2 * -(-len(lines) // columns)), layout="constrained")
    panels = figure.subplots(1, 2, squeeze=False).flat
    measures: tuple[tuple[str, _Measure], ...] = (
        ("clean", lambda pipeline: pipeline.clean),
        (results.headline_title, lambda pipeline: pipeline.robust(results.headline)),
    )
    for axes, (heading, measure) in zip(panels, measures, strict=True):
        for place, (label, found) in enumerate(lines.items()):
            _line(axes, sorted(found, key=lambda p: p.number(axis) or 0), axis, measure, place, label, scale)
        log_axis(axes, [scale * (pipeline.number(axis) or 0) for found in lines.values() for pipeline in found])
        axes.set(xlabel=title, ylabel="accuracy (%)", title=heading)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    caption = f"Accuracy over {title}, with Wilson intervals at 95 %; the mean over seeds. {MARKS}"
    return (Drawing(name, f"Accuracy over {title}", caption, figure),)


_Measure = Callable[[Pipeline], Accuracy | None]


def _line(
    axes: Axes, found: Sequence[Pipeline], axis: str, measure: _Measure, place: int, label: str, scale: float
) -> None:
    points = [(p, accuracy) for p in found if (accuracy := measure(p)) is not None]
    color, marker, line = SERIES[place % len(SERIES)]
    x = [scale * (p.number(axis) or 0) for p, _ in points]
    axes.errorbar(
        x, [100 * accuracy.value for _, accuracy in points], _bars([accuracy for _, accuracy in points]), color=color,
        marker=marker, linestyle=line, label=label, markersize=5, linewidth=1.3, elinewidth=0.8, capsize=2,
        markerfacecolor=face(color, worst_state(p.state for p, _ in points)),
    )  # fmt: skip


def _bars(accuracies: Sequence[Accuracy]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Lengths of error bars below and above, in percent, (2, N)."""
    lengths = [(each.value - each.interval[0], each.interval[1] - each.value) for each in accuracies]
    return 100 * np.array(lengths, dtype=np.float64).reshape(-1, 2).T.clip(0)


def attacks(results: Results) -> tuple[Drawing, ...]:
    """What each way of attacking leaves of each quantized network, at a weak and at the usual budget."""
    shown_bounds = [bounds for bounds in dict.fromkeys((results.at(WEAK), results.headline)) if bounds is not None]
    kinds = attack_kinds(results)
    rows = [p for p in results.main if not p.is_float and any(len(p.kinds(bounds)) > 1 for bounds in results.bounds)]
    if not rows or not shown_bounds:
        return ()
    shown = rows[:ROWS]
    labels = [results.label(pipeline, in_main=True) for pipeline in shown]
    width = label_width(labels) + 2.6 * len(shown_bounds)
    figure = Figure(figsize=(width, 0.24 * len(shown) + 1.6), layout="constrained")
    panels = list(figure.subplots(1, len(shown_bounds), squeeze=False, sharey=True).flat)
    for axes, bounds in zip(panels, shown_bounds, strict=True):
        for row, pipeline in enumerate(shown):
            _attacks_of(axes, row, {k: a for k in kinds if (a := pipeline.under(bounds, k))}, kinds, pipeline.state)
        axes.set(xlabel="accuracy (%)", title=bounds.title, xlim=(-3, 103))
        axes.grid(alpha=0.25, axis="x")
    panels[0].set_yticks(range(len(shown)), labels)
    panels[0].set_ylim(len(shown) - 0.4, -0.6)
    entries: dict[str, Artist] = {}
    for axes in panels:
        entries = {**dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True)), **entries}
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=4)
    left = f" The first {ROWS} of {len(rows)} pipelines." if len(rows) > ROWS else ""
    caption = (
        "Accuracy of the same network under different attacks; hard takes the true, zero gradient of rounding. "
        f"{MARKS}{left}"
    )
    return (Drawing("attacks", "Attacks side by side", caption, figure),)


def _attacks_of(axes: Axes, row: int, found: Mapping[str, Accuracy], kinds: Sequence[str], state: State) -> None:
    """A marker for each attack on a network, in one row."""
    values = [100 * accuracy.value for accuracy in found.values()]
    axes.hlines(row, min(values, default=0), max(values, default=0), color="#BBBBBB", zorder=1)
    for kind, value in zip(found, values, strict=True):
        color, marker, _ = SERIES[kinds.index(kind) % len(SERIES)]
        axes.scatter([value], [row], 32, color=face(color, state), edgecolors=color, marker=marker, label=kind,
                     zorder=2)  # fmt: skip


def cost_bars(results: Results) -> tuple[Drawing, ...]:
    """Fit time of each strategy."""
    rows = costs(results).rows
    times = [(str(row[0]), row[2].value) for row in rows if isinstance(row[2], Number) and row[2].value]
    if not times:
        return ()
    times.sort(key=lambda item: item[1])
    unit, size = next((u for u in UNITS if times[-1][1] >= 2 * u[1]), UNITS[-1])
    width = label_width(name for name, _ in times) + 4.5
    figure = Figure(figsize=(width, 0.32 * len(times) + 1.0), layout="constrained")
    axes = figure.add_subplot(xlabel=f"median fit time of a cell ({unit})")
    bars = axes.barh(
        [name for name, _ in times], [seconds / size for _, seconds in times], color=SERIES[0][0], height=0.6
    )
    axes.bar_label(bars, [duration(seconds) for _, seconds in times], padding=4, fontsize=8)
    axes.margins(x=0.2)
    axes.grid(alpha=0.25, axis="x")
    axes.set_axisbelow(True)
    caption = "Median wall time of training a cell. Cells may have shared a machine with other work."
    return (Drawing("cost", "Time of each strategy", caption, figure),)
