"""Charts of trade-offs: clean or cost against robust accuracy, attacks side by side, and time of each strategy."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from qra.coordinates import Axis
from qra.durations import duration
from qra.evaluation.doubt import State
from qra.evaluation.measured import Accuracy
from qra.palette import BLACK, GREY
from qra.quant.scheme import OFF
from qra.report.contents import GIGA, KIB, costs
from qra.report.pareto import Offer, front, offers
from qra.report.pipelines import Pipeline, training_title
from qra.report.results import WEAK, Results
from qra.report.style import (
    INITS,
    MARKS,
    SERIES,
    Drawing,
    bits_color,
    face,
    label_width,
    quantizer_markers,
    training_marker,
)
from qra.report.tables import Time

UNITS = (("h", 3600.0), ("min", 60.0), ("s", 1.0))
ROWS = 36
"""Maximum number of pipelines in the chart of attacks side by side."""


def clean_against_robust(results: Results) -> tuple[Drawing, ...]:
    """Draw a point for each pipeline in a panel for its training; lines join the bit widths of one."""
    points = {
        id(pipeline): (100 * clean.value, 100 * robust.value)
        for pipeline in results.main
        if (clean := pipeline.clean) and (robust := pipeline.robust(results.headline))
    }
    shown = [pipeline for pipeline in results.main if id(pipeline) in points]
    if not shown:
        return ()
    trainings = list(dict.fromkeys(pipeline.text(Axis.TRAINING) for pipeline in shown))
    columns = min(2, len(trainings))
    rows = -(-len(trainings) // columns)
    figure = Figure(figsize=(3.0 * columns + 1.5, 2.7 * rows + 0.6), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    markers = quantizer_markers(shown)
    joined: set[str] = set()
    for axes, training in zip(grid, trainings, strict=False):
        axes.set_title(training_title(training), loc="left")
        found = [pipeline for pipeline in shown if pipeline.text(Axis.TRAINING) == training]
        joined |= _joined(axes, found, points)
        originals = [results.reference(pipeline) for pipeline in found if not pipeline.is_float]
        for pipeline in {id(each): each for each in (*originals, *found) if each in shown}.values():
            _point(axes, pipeline, *points[id(pipeline)], markers[pipeline.quantizer])
        axes.grid(alpha=0.25)
        axes.margins(0.06)
    for axes in grid[len(trainings) :]:
        axes.set_visible(False)
    for axes in grid[len(trainings) - columns : len(trainings)]:  # the lowest of each column
        axes.set_xlabel("clean accuracy (%)")
        axes.tick_params(labelbottom=True)
    for axes in grid[::columns]:
        axes.set_ylabel(_robust_title(results))
    quantizers = {name: marker for name, marker in markers.items() if name != "float"}
    handles = [*_width_keys(shown), *_marker_keys(quantizers), *_state_keys(shown), *_line_keys(joined)]
    figure.legend(handles=handles, loc="outside right upper")
    caption = (
        "Each point is a pipeline, the mean over seeds, in the panel of its training, beside the float networks that "
        "were treated alike. Its marker is the quantizer, its colour the smaller of its two bit widths. Lines join the "
        f"bit widths of one pipeline. {MARKS}"
    )
    return (Drawing("clean-robust", "Clean against robust accuracy", caption, figure),)


def _joined(axes: Axes, pipelines: Sequence[Pipeline], points: Mapping[int, tuple[float, float]]) -> set[str]:
    """Draw a line through the bit widths of each pipeline with several, and return the starts of these pipelines."""
    lines: dict[object, list[Pipeline]] = {}
    for pipeline in pipelines:
        if OFF not in pipeline.bits:
            lines.setdefault(pipeline.apart_from(Axis.WEIGHT_BITS, Axis.ACT_BITS), []).append(pipeline)
    several = [sorted(line, key=lambda pipeline: pipeline.bits) for line in lines.values() if len(line) > 1]
    for line in several:
        axes.plot(*zip(*(points[id(pipeline)] for pipeline in line), strict=True), color=GREY, linewidth=0.7,
                  linestyle=INITS.get(line[0].text(Axis.INIT), "-."), alpha=0.6)  # fmt: skip
    return {line[0].text(Axis.INIT) for line in several}


def _robust_title(results: Results) -> str:
    return f"robust accuracy (%)\n{results.headline_title}"


def _point(axes: Axes, pipeline: Pipeline, x: float, y: float, marker: str) -> None:
    color = bits_color(pipeline.bits)
    edge = "white" if pipeline.state == "sound" else color
    axes.scatter(
        [x], [y], 90 if pipeline.is_float else 50, color=face(color, pipeline.state),
        marker=marker, edgecolors=edge, linewidths=0.6 if pipeline.state == "sound" else 1.2, zorder=3,
    )  # fmt: skip


def _width_keys(pipelines: Sequence[Pipeline]) -> list[Line2D]:
    """Return legend entries for the colours of bit widths."""
    widths = {min(pipeline.bits): bits_color(pipeline.bits) for pipeline in pipelines}
    return [
        Line2D([], [], color=color, linewidth=6, label="float" if width == OFF else f"{width} bits")
        for width, color in sorted(widths.items(), reverse=True)
    ]


def _marker_keys(markers: Mapping[str, str]) -> list[Line2D]:
    """Return legend entries for markers by label."""
    return [_key(label, GREY, marker, GREY) for label, marker in markers.items()]


def _state_keys(pipelines: Sequence[Pipeline]) -> list[Line2D]:
    """Return legend entries for the fillings of markers that stand for doubtful gradients."""
    in_doubt = sorted({pipeline.state for pipeline in pipelines if pipeline.state != "sound"}, reverse=True)
    return [_key(state, GREY, "o", face(GREY, state)) for state in in_doubt]


def _line_keys(inits: Collection[str]) -> list[Line2D]:
    known = [(init, style) for init, style in INITS.items() if init in inits]
    return [Line2D([], [], color=GREY, linestyle=style, label=f"{init} start") for init, style in known]


def _key(label: str, color: str, marker: str, filling: object) -> Line2D:
    return Line2D([], [], color=color, marker=marker, markerfacecolor=filling, linestyle="", label=label)  # type: ignore[arg-type]


def pareto_fronts(results: Results) -> tuple[Drawing, ...]:
    """Draw robust accuracy against model size, and against BitOPs."""
    kinds = (
        ("pareto-size", "model size (KiB)", "size_in_bits", KIB),
        ("pareto-bitops", "BitOPs of one image (GBitOPs, log scale)", "bit_ops", GIGA),
    )
    made = []
    for name, title, cost, unit in kinds:
        found = offers(results, cost, unit)
        if len(found) > 1:
            figure = _front(results, found, title)
            made.append(Drawing(name, f"Robust accuracy against {title.partition(' (')[0]}", _FRONT, figure))
    return tuple(made)


_FRONT = (
    "Each point is a pipeline, the mean over seeds. The line connects the recommended ones: each step up is "
    f"significant, and points near the line may be as good. Suspect ones are not recommended. {MARKS}"
)


def _front(results: Results, found: Sequence[Offer], title: str) -> Figure:
    best = front(results, found)
    figure = Figure(figsize=(7.2, 3.6 + 0.2 * len(best)), layout="constrained")
    axes = figure.add_subplot(xlabel=title, ylabel=_robust_title(results))
    for offer in found:
        _point(axes, offer.pipeline, offer.cost, 100 * offer.robust, training_marker(offer.pipeline))
    if "log" in title:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(0, 1.05 * max(offer.cost for offer in found))
    ends = [*(offer.cost for offer in best), max(offer.cost for offer in found)]
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
    shown = [offer.pipeline for offer in found]
    trainings = {training_title(pipeline.text(Axis.TRAINING)): training_marker(pipeline) for pipeline in shown}
    handles = [*_width_keys(shown), *_marker_keys(trainings), *_state_keys(shown)]
    figure.legend(handles=handles, loc="outside right upper")
    listed = [f"{number}  {results.label(offer.pipeline)}" for number, offer in enumerate(best, 1)]
    figure.supxlabel("\n".join(listed), fontsize=8, x=0.02, ha="left")
    return figure


def attacks(results: Results) -> tuple[Drawing, ...]:
    """Draw the accuracy of each quantized network under each kind of attack, at a weak and at the usual budget."""
    shown_bounds = [bounds for bounds in dict.fromkeys((results.at(WEAK), results.headline)) if bounds is not None]
    kinds = results.kinds(*results.bounds)
    rows = [p for p in results.quantized if any(len(p.kinds(bounds)) > 1 for bounds in results.bounds)]
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
    drawn = {kind for pipeline in shown for bounds in shown_bounds for kind in kinds if pipeline.under(bounds, kind)}
    styles = {kind: SERIES[place % len(SERIES)] for place, kind in enumerate(kinds) if kind in drawn}
    handles = [_key(kind, color, marker, color) for kind, (color, marker, _) in styles.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    left = f" The first {ROWS} of {len(rows)} pipelines." if len(rows) > ROWS else ""
    caption = (
        "Accuracy of the same network under different attacks; hard uses the true, zero gradient of rounding. "
        f"{MARKS}{left}"
    )
    return (Drawing("attacks", "Attacks side by side", caption, figure),)


def _attacks_of(axes: Axes, row: int, found: Mapping[str, Accuracy], kinds: Sequence[str], state: State) -> None:
    """Draw a marker for each attack on a network, in one row."""
    values = [100 * accuracy.value for accuracy in found.values()]
    axes.hlines(row, min(values, default=0), max(values, default=0), color="#BBBBBB", zorder=1)
    for kind, value in zip(found, values, strict=True):
        color, marker, _ = SERIES[kinds.index(kind) % len(SERIES)]
        axes.scatter([value], [row], 32, color=face(color, state), edgecolors=color, marker=marker, zorder=2)


def cost_bars(results: Results) -> tuple[Drawing, ...]:
    """Draw the fit time of each strategy."""
    rows = costs(results).rows
    times = [(str(row[0]), row[2].seconds) for row in rows if isinstance(row[2], Time) and row[2].seconds]
    if not times:
        return ()
    times.sort(key=lambda item: item[1])
    unit, size = next((u for u in UNITS if times[-1][1] >= 2 * u[1]), UNITS[-1])
    width = label_width(name for name, _ in times) + 4.5
    figure = Figure(figsize=(width, 0.32 * len(times) + 1.0), layout="constrained")
    axes = figure.add_subplot(xlabel=f"median fit time of a cell ({unit})")
    bars = axes.barh([name for name, _ in times], [seconds / size for _, seconds in times], color=GREY, height=0.6)
    axes.bar_label(bars, [duration(seconds) for _, seconds in times], padding=4, fontsize=8)
    axes.margins(x=0.2)
    axes.grid(alpha=0.25, axis="x")
    axes.set_axisbelow(True)
    caption = "Median wall time of training a cell. Cells may have shared a machine with other work."
    return (Drawing("cost", "Time of each strategy", caption, figure),)
