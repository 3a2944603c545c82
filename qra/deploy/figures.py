"""Figures that compare engines with a program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qra.palette import BLUE, GREY, ORANGE
from qra.report.style import SERIES, Drawing, label_width

TITLES = {
    "clean": "clean",
    "full-length": "adversarial,\nfull-length",
    "early-stopped": "adversarial,\nearly-stopped",
    "inside": "boundary,\nclean side",
    "outside": "boundary,\nother side",
}
KINDS = tuple(TITLES)
_FLOOR = 1e-8


def decisions(parity: Mapping[str, Any]) -> Drawing:
    """Draw the images that engines get wrong, and right, where the program decides otherwise.

    Args:
        parity: Content of ``parity.json``.
    """
    runs = parity["runs"]
    figure = Figure(figsize=(7.2, 1.0 + 1.15 * len(runs)), layout="constrained")
    panels = figure.subplots(len(runs), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    places = range(len(KINDS))
    for axes, run in zip(panels, runs, strict=True):
        found = [run["decisions"][kind] for kind in KINDS]
        axes.bar(places, [each["gained"] for each in found], 0.6, color=BLUE, label="correct only here")
        axes.bar(places, [-each["lost"] for each in found], 0.6, color=ORANGE, label="correct only in the program")
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.set_title(f"{run['name']}: {run['verdict']}", loc="left")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.margins(y=0.2)
    panels[-1].set_xticks(places, [f"{TITLES[kind]}\n(n={runs[0]['decisions'][kind]['n']})" for kind in KINDS])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    figure.supylabel("images", fontsize=9)
    caption = (
        "Upwards: images that this engine classifies correctly and the program does not; downwards: the opposite. "
        "An engine whose decisions differ near boundaries gains where an attack stopped: it looks more robust."
    )
    return Drawing("decisions", "Where decisions differ from the program's", caption, figure)


def layers(parity: Mapping[str, Any]) -> Drawing | None:
    """Draw the fraction of different codes along the network, step by step; None if no codes were compared."""
    steps = {run["name"]: run["layers"] for run in parity["runs"] if run["layers"]}
    steps = {f"program to {name}": found for name, found in steps.items()}
    if parity["fake_quantized"] is not None:
        steps = {"fake-quantized (float64) to program": parity["fake_quantized"]["layers"], **steps}
    steps = {name: found for name, found in steps.items() if found}
    if not steps:
        return None
    names = list(dict.fromkeys(layer for found in steps.values() for layer in found))
    figure = Figure(figsize=(7.2, 2.6 + 0.6 * label_width(names)), layout="constrained")
    axes = figure.add_subplot(ylabel="share of codes that differ")
    for (step, found), (color, marker, _) in zip(steps.items(), SERIES, strict=False):
        shares = [found[layer]["share"] if layer in found else None for layer in names]
        places = [place for place, share in enumerate(shares) if share is not None]
        axes.plot(places, [max(shares[place] or 0.0, _FLOOR) for place in places], color=color, marker=marker,
                  markersize=4, linewidth=0.9, label=step)  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(_FLOOR / 2, 1)
    axes.set_yticks([_FLOOR, 1e-6, 1e-4, 1e-2, 1], ["0", "1e-6", "1e-4", "1e-2", "1"])
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.grid(alpha=0.25)
    axes.legend(loc="best")
    return Drawing("layers", "Integer codes that differ, layer by layer", "On clean images.", figure)
