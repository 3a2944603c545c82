"""Figures of evaluations."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from qra.evaluation.measured import Measured
from qra.evaluation.transfer import TransferMatrix
from qra.palette import BLACK, BLUE, COLORS, ORANGE
from qra.writing import replacing


def write_png(path: Path, figure: Figure) -> None:
    """Write a figure to a PNG file, whose directory is created if necessary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150)


def robustness_curve(outcomes: Iterable[Measured]) -> Figure:
    """Plot accuracy against the L-inf budget, one line per attack, with its 95 % interval as a band.

    Attacks with a single budget are omitted.
    """
    lines: dict[tuple[str, int], list[Measured]] = {}
    attacks = [each for each in outcomes if each.role == "robust" and each.threat_model.norm == "linf"]
    for outcome in sorted(attacks, key=lambda each: each.threat_model.eps):
        kind = outcome.kind + (", bytes" if outcome.threat_model.pixels == "bytes" else "")
        lines.setdefault((kind, outcome.accuracy.n), []).append(outcome)
    lines = {key: points for key, points in lines.items() if len(points) > 1}
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot(xlabel="eps (pixel levels of 255)", ylabel="accuracy (%)", ylim=(0, 100))
    for ((kind, n), points), colour in zip(lines.items(), itertools.cycle(COLORS), strict=False):
        budgets = [point.threat_model.levels for point in points]
        values = [100 * point.accuracy.value for point in points]
        axes.plot(budgets, values, marker="o", color=colour, label=f"{kind}, n = {n}")
        low, high = np.array([point.accuracy.interval for point in points]).T * 100
        axes.fill_between(budgets, low, high, alpha=0.25, color=colour, linewidth=0)
    axes.set_xscale("symlog", base=2, linthresh=0.5)
    ticks = sorted({point.threat_model.levels for points in lines.values() for point in points})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.grid(alpha=0.3)
    if lines:
        axes.legend(frameon=False)
    return figure


def adversarial_grid(
    x: Tensor, x_adv: Tensor, y: Tensor, clean: Tensor, adversarial: Tensor, names: Sequence[str]
) -> Figure:
    """Plot clean images, adversarial images and their difference, one column per example, below its true class.

    The network's prediction stands above each image, in orange with a cross if it is wrong.

    Args:
        x: Clean images in [0, 1], (N, C, H, W).
        x_adv: Adversarial images, (N, C, H, W).
        y: Labels, (N,).
        clean: Predictions on the clean images, (N,).
        adversarial: Predictions on the adversarial images, (N,).
        names: Names of the classes.

    Returns:
        The figure. Differences are scaled so that the largest change of any pixel is black or white and no change is
        grey; the figure states that largest change in pixel levels of 255.
    """
    delta = x_adv - x
    largest = float(delta.abs().max()) or 1.0
    rows = (x, x_adv, 0.5 + delta / (2 * largest))
    figure = Figure(figsize=(1.3 * len(x) + 0.6, 5.0), layout="constrained")
    axes = figure.subplots(3, len(x), squeeze=False)
    scale = f"difference\nblack to white:\n-{255 * largest:.3g} to {255 * largest:.3g} of 255"
    for row, (images, label) in enumerate(zip(rows, ("clean", "adversarial", scale), strict=True)):
        for column, image in enumerate(images):
            panel = axes[row, column]
            pixels = image.permute(1, 2, 0).clamp(0, 1).cpu().numpy()
            panel.imshow(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, cmap="gray", interpolation="nearest")
            panel.set_xticks([])
            panel.set_yticks([])
            if row < 2:
                _title(panel, int(y[column]), int((clean, adversarial)[row][column]), names, first=row == 0)
        axes[row, 0].set_ylabel(label, fontsize=7)
    return figure


def _title(panel: Axes, true: int, predicted: int, names: Sequence[str], first: bool) -> None:
    """Title a panel with the predicted class, and the first one of a column also with the true class."""
    is_right = true == predicted
    is_of = f"{names[true]} (true)\n" if first else ""
    name = names[predicted] if predicted < len(names) else f"output {predicted}"  # more outputs than classes
    taken_for = f"{'✓' if is_right else '✗'} {name}"
    panel.set_title(f"{is_of}{taken_for}", fontsize=7, color=BLACK if is_right else ORANGE)


def transfer_heat_map(matrix: TransferMatrix, attack: str) -> Figure:
    """Plot a transfer matrix below the accuracies on clean images; a frame marks each network's own examples."""
    values = 100 * np.vstack([matrix.clean_accuracy.numpy(), matrix.accuracy.numpy()])
    count = len(matrix.names)
    longest = max(map(len, matrix.names))
    figure = Figure(
        figsize=(2.2 + 0.08 * longest + 0.7 * count, 1.8 + 0.05 * longest + 0.55 * count), layout="constrained"
    )
    axes = figure.add_subplot(xlabel="scored on", ylabel="made on")
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(count), matrix.names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(count + 1), ["clean images", *matrix.names])
    for (row, column), value in np.ndenumerate(values):
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", color="black" if value > 50 else "white")
    for place in range(count):
        frame = Rectangle((place - 0.47, place + 0.54), 0.94, 0.92, fill=False, edgecolor=ORANGE, linewidth=2.5)
        axes.add_patch(frame)
    axes.axhline(0.5, color="white", linewidth=3)
    axes.set_title(f"{attack}, n = {matrix.n}", fontsize="medium")
    figure.colorbar(image, ax=axes, label="accuracy (%)")
    return figure


def loss_curve(losses: Sequence[float]) -> Figure:
    """Plot the mean cross-entropy, in nats, of PGD's iterates from the start to the last step."""
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step of PGD", ylabel="mean cross-entropy (nats)")
    axes.plot(range(len(losses)), losses, marker="o", markersize=3, color=BLUE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("Does the attack raise the loss?", fontsize="medium")
    axes.grid(alpha=0.3)
    return figure
