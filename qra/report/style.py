"""Style of figures: legible in print, in greyscale and for colour-blind readers."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qra.coordinates import Axis
from qra.evaluation.doubt import State
from qra.palette import BLACK, BLUE, COLORS, GREEN, GREY, ORANGE, PINK, PURPLE, SKY, WINE, YELLOW
from qra.quant.scheme import OFF
from qra.report.pipelines import Pipeline

SERIES = tuple(
    zip(
        (*COLORS, GREY, BLACK),
        "os^DvP*X",
        ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), "-"),
        strict=True,
    )
)
"""Colour, marker and line of each series; any one of the three distinguishes them."""
WIDTHS = {
    OFF: (BLACK, ""), 16: (GREY, "X"), 8: (BLUE, "o"), 7: (PURPLE, "p"), 6: (SKY, "s"), 5: (GREEN, "^"),
    4: (ORANGE, "D"), 3: (YELLOW, "v"), 2: (PINK, "P"), 1: (WINE, "*"),
}  # fmt: skip
"""Colour of each bit width in all figures of all studies, and its marker in figures with a line for each width."""
TRAININGS = {"none": "o", "plain": "^", "adversarial": "s", "transfer": "D"}
"""Marker of each training."""
QUANTIZERS = {"float": "o", "PACT": "s", "PWLQ": "D", "LSQ": "^", "uniform": "v", "DoReFa": "P", "SAWB": "X"}
"""Marker of each quantizer in figures with one for each."""
OTHER_QUANTIZERS = "ph*<>d8"
"""Markers of all other quantizers of a study, in order."""
INITS: dict[str, Literal["-", "--", ":"]] = {"robust": "-", "plain": "--", "random": ":"}
"""Line style of each start."""

MARKS = "Hollow markers: gradients are suspect, the truth may be lower. Pale markers: they were not judged."
"""Explanation of how markers are filled."""

_SETTINGS: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "text.parse_math": False,  # names come from files
    "svg.hashsalt": "qra",  # makes the bytes of a figure reproducible
    "path.simplify": False,
}


@dataclass(frozen=True)
class Drawing:
    """A figure of a report.

    Args:
        name: Name of its files, without suffix.
        title: One-line title for people.
        caption: What a reader must know to understand it.
        figure: The drawn figure.
    """

    name: str
    title: str
    caption: str
    figure: Figure

    @cached_property
    def png(self) -> bytes:
        """The figure as PNG, for slides and screens, at 160 dots per inch."""
        return self._file("png", dpi=160)

    @cached_property
    def svg(self) -> bytes:
        """The figure as SVG, for print."""
        return self._file("svg", metadata={"Date": None})

    def _file(self, kind: str, **options: Any) -> bytes:
        file = io.BytesIO()
        with settings(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in a script that the font does not have
            if (engine := self.figure.get_layout_engine()) is not None:
                engine.execute(self.figure)
                self.figure.set_layout_engine("none")  # one layout for all files
            self.figure.savefig(file, format=kind, **options)
        return file.getvalue()


def settings() -> Any:
    """Return a context in which figures are made."""
    return matplotlib.rc_context(_SETTINGS)


def training_marker(pipeline: Pipeline) -> str:
    """Return the marker of a pipeline's training."""
    return TRAININGS.get(pipeline.text(Axis.TRAINING), "P")


def quantizer_markers(pipelines: Iterable[Pipeline]) -> dict[str, str]:
    """Return the marker of each quantizer, by its name for people, in order of appearance."""
    names = list(dict.fromkeys(pipeline.quantizer for pipeline in pipelines))
    others = dict(zip((name for name in names if name not in QUANTIZERS), cycle(OTHER_QUANTIZERS), strict=False))
    return {name: QUANTIZERS.get(name) or others[name] for name in names}


def bits_style(bits: tuple[int, int]) -> tuple[str, str, str]:
    """Return colour, marker and line for bit widths; dash-dotted if both sides are quantized, to different widths."""
    color, marker = WIDTHS.get(min(bits), (GREY, "X"))
    weights, activations = bits
    return color, marker, "-" if weights == activations or OFF in bits else "-."


def bits_color(bits: tuple[int, int]) -> str:
    """Return the colour for the bit widths of weights and activations: that of the smaller one."""
    return bits_style(bits)[0]


def face(color: str, state: State) -> tuple[float, float, float]:
    """Return the fill colour of a marker: full for sound gradients, pale for those not judged, white for suspect."""
    share = {"sound": 1.0, "not judged": 0.4, "suspect": 0.0}[state]
    red, green, blue = (1 - share * (1 - value) for value in to_rgb(color))
    return red, green, blue


def label_width(labels: Iterable[str]) -> float:
    """Return the width in inches that the longest label beside an axis takes."""
    return 0.4 + 0.072 * max(map(len, labels), default=0)


def budget_axis(axes: Axes, levels: Sequence[float]) -> None:
    """Set up an axis of budgets from 0, evenly spaced, with ticks at whole pixel levels."""
    axes.set_xlim(0, 1.03 * max(levels, default=1))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 4, 5, 8, 10]))
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.25)


def value_axis(axes: Axes, values: Mapping[float, str]) -> None:
    """Set up an axis with a tick at each value: logarithmic if they span more than a decade, otherwise linear."""
    ticks = sorted(values)
    if ticks[0] > 0 and ticks[-1] > 10 * ticks[0]:
        axes.set_xscale("log")
    axes.set_xticks(ticks, [values[tick] for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.25)
