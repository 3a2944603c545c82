"""How figures look: legible in print, in grey and for the colour-blind."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
"""Colour, marker and line of each series: any one of the three tells them apart."""
WIDTHS = {
    OFF: (BLACK, ""), 16: (GREY, "X"), 8: (BLUE, "o"), 7: (PURPLE, "p"), 6: (SKY, "s"), 5: (GREEN, "^"),
    4: (ORANGE, "D"), 3: (YELLOW, "v"), 2: (PINK, "P"), 1: (WINE, "*"),
}  # fmt: skip
"""Colour of each bit width in every figure of every study, and its marker where figures have a line for each width."""
TRAININGS = {"none": "o", "plain": "^", "adversarial": "s", "transfer": "D"}
"""Marker of each training."""
INITS: dict[str, Literal["-", "--", ":"]] = {"robust": "-", "plain": "--", "random": ":"}
"""Line of each start."""

MARKS = "Hollow markers: gradients are suspect, the truth may be lower. Pale markers: they were not judged."
"""What the fillings of markers say."""

_SETTINGS: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "text.parse_math": False,  # names come from files
    "svg.hashsalt": "qra",  # the same figure is the same bytes
    "path.simplify": False,
}


@dataclass(frozen=True)
class Drawing:
    """A figure of a report.

    Args:
        name: Name of its files, without ending.
        title: One line for people.
        caption: What must be known to read it.
        figure: The figure, drawn.
    """

    name: str
    title: str
    caption: str
    figure: Figure

    @cached_property
    def png(self) -> bytes:
        """For slides and screens, 160 dots an inch."""
        return self._file("png", dpi=160)

    @cached_property
    def svg(self) -> bytes:
        """For print."""
        return self._file("svg", metadata={"Date": None})

    def _file(self, kind: str, **options: Any) -> bytes:
        file = io.BytesIO()
        with settings(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in a script that the font does not have
            if (engine := self.figure.get_layout_engine()) is not None:
                engine.execute(self.figure)
                self.figure.set_layout_engine("none")  # laid out once for all files
            self.figure.savefig(file, format=kind, **options)
        return file.getvalue()


def settings() -> Any:
    """A context in which figures are made."""
    return matplotlib.rc_context(_SETTINGS)


def training_marker(pipeline: Pipeline) -> str:
    """The marker of a pipeline's training."""
    return TRAININGS.get(pipeline.text(Axis.TRAINING), "P")


def narrowest(bits: tuple[int, int]) -> int:
    """The width that gives bits of weights and activations their colour: the smaller one."""
    return min(bits)


def bits_style(bits: tuple[int, int]) -> tuple[str, str, str]:
    """Colour, marker and line of bits of weights and activations: dashed where both are quantized, to other widths."""
    color, marker = WIDTHS.get(narrowest(bits), (GREY, "X"))
    weights, activations = bits
    return color, marker, "-" if weights == activations or OFF in bits else "-."


def bits_color(bits: tuple[int, int]) -> str:
    """Colour of bits of weights and activations."""
    return bits_style(bits)[0]


def face(color: str, state: State) -> tuple[float, float, float]:
    """The filling of a marker: full for sound gradients, pale for those not judged, white for suspect ones."""
    share = {"sound": 1.0, "not judged": 0.4, "suspect": 0.0}[state]
    red, green, blue = (1 - share * (1 - value) for value in to_rgb(color))
    return red, green, blue


def label_width(labels: Iterable[str]) -> float:
    """Inches that the longest label beside an axis takes."""
    return 0.4 + 0.072 * max(map(len, labels), default=0)


def budget_axis(axes: Axes, levels: Sequence[float]) -> None:
    """Budgets from 0, evenly spaced, with ticks at whole pixel levels."""
    axes.set_xlim(0, 1.03 * max(levels, default=1))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 4, 5, 8, 10]))
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.25)


def value_axis(axes: Axes, values: Mapping[float, str]) -> None:
    """An axis with a tick at each value: logarithmic where they span more than a decade, else even.

    Args:
        axes: The axes.
        values: What is written at each value.
    """
    ticks = sorted(values)
    if ticks[0] > 0 and ticks[-1] > 10 * ticks[0]:
        axes.set_xscale("log")
    axes.set_xticks(ticks, [values[tick] for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.25)
