"""Figures of evaluations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from qra.evaluation.outcome import Outcome

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # of Okabe and Ito
_STYLES = tuple(zip(_COLORS, "os^vDP*", strict=True))


def robustness_curve(outcomes: Iterable[Outcome]) -> Figure:
    """Accuracy over the attack's budget, with its 95 % interval as a band; one curve for each title."""
    points = sorted((outcome for outcome in outcomes if outcome.settings), key=lambda outcome: outcome.eps)
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot(xlabel="eps (pixel levels of 255)", ylabel="accuracy (%)", ylim=(0, 100))
    for title, (color, marker) in zip(dict.fromkeys(point.title for point in points), _STYLES, strict=False):
        curve = [point for point in points if point.title == title]
        budgets = [point.eps * 255 for point in curve]
        label = f"{title}, n = {curve[0].n}"
        axes.plot(budgets, [100 * point.accuracy for point in curve], marker=marker, color=color, label=label)
        low, high = np.array([point.interval for point in curve]).T * 100
        axes.fill_between(budgets, low, high, alpha=0.2, color=color, linewidth=0)
    axes.set_xscale("symlog", base=2, linthresh=0.5)
    budgets = sorted({point.eps * 255 for point in points})
    axes.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
    axes.grid(alpha=0.3)
    if points:
        axes.legend()
    return figure


def adversarial_grid(x: Tensor, x_adv: Tensor, titles: Sequence[tuple[str, str]]) -> Figure:
    """Clean images, adversarial ones and their difference, one column an example.

    Args:
        x: Clean images in [0, 1], (N, C, H, W).
        x_adv: Adversarial images, (N, C, H, W).
        titles: For each example, what to write above the clean and above the adversarial image.

    Returns:
        The difference is scaled so that the largest change of any pixel is black or white, and no change is grey.
    """
    delta = x_adv - x
    largest = float(delta.abs().max()) or 1.0
    rows = (x, x_adv, 0.5 + delta / (2 * largest))
    figure = Figure(figsize=(1.3 * len(x) + 0.4, 4.6), layout="constrained")
    axes = figure.subplots(3, len(x), squeeze=False)
    labels = ("clean", "adversarial", f"difference\n(x {0.5 / largest:.0f})")
    for row, (images, label) in enumerate(zip(rows, labels, strict=True)):
        for column, image in enumerate(images):
            panel = axes[row, column]
            pixels = image.permute(1, 2, 0).clamp(0, 1).cpu().numpy()
            panel.imshow(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, cmap="gray", interpolation="nearest")
            panel.set_xticks([])
            panel.set_yticks([])
            if row < 2:
                panel.set_title(titles[column][row], fontsize=7)
        axes[row, 0].set_ylabel(label, fontsize=8)
    return figure
