"""How figures look: legible in print, in grey and for the colour-blind."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from qra.coordinates import Axis
from qra.evaluation.doubt import State
from qra.palette import BLACK, BLUE, COLORS, GREEN, GREY, ORANGE, PINK
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
TRAININGS = {"none": (GREY, "o"), "plain": (ORANGE, "^"), "adversarial": (BLUE, "s"), "transfer": (GREEN, "D")}
"""Colour and marker of each training."""
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


def training_style(pipeline: Pipeline) -> tuple[str, str]:
    """Colour and marker of a pipeline's training."""
    return TRAININGS.get(pipeline.text(Axis.TRAINING), (PINK, "P"))


def face(color: str, state: State) -> tuple[float, float, float]:
    """The filling of a marker: full for sound gradients, pale for those not judged, white for suspect ones."""
    share = {"sound": 1.0, "not judged": 0.4, "suspect": 0.0}[state]
    red, green, blue = (1 - share * (1 - value) for value in to_rgb(color))
    return red, green, blue


def label_width(labels: Iterable[str]) -> float:
    """Inches that the longest label beside an axis takes."""
    return 0.4 + 0.072 * max(map(len, labels), default=0)


def budget_axis(axes: Axes, levels: Sequence[float]) -> None:
    """Budgets from 0, each twice the one before, as the attacks have them."""
    axes.set_xscale("symlog", base=2, linthresh=min((level for level in levels if level > 0), default=1))
    ticks = sorted({0.0, *levels})
    axes.set_xticks(ticks, [f"{level:g}" for level in ticks])
    axes.set_xticks([], minor=True)
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.25)


def log_axis(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis with a tick at each value."""
    axes.set_xscale("log")
    ticks = sorted(set(values))
    axes.set_xticks(ticks, [f"{value:g}" for value in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.25)
