"""Figures of the effect of quantization on weights and activations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from qra.palette import COLORS, GREY
from qra.quant import PWLQ, Uniform, WeightQuantizer
from qra.quant.statistics import SiteStatistics

DISTINCT = 64
"""Number of levels up to which their lines leave a histogram visible."""


def weight_grids(
    weight: Tensor,
    bit_width: int,
    quantizers: Sequence[WeightQuantizer] = (Uniform(per_channel=False), PWLQ(per_channel=False)),
) -> Figure:
    """Plot a histogram of a layer's weights, overlaid with the levels of several quantizers.

    Args:
        weight: Weights of the layer, (C, ...).
        bit_width: Bit width of all quantizers, 2 to 8.
        quantizers: Quantizers whose levels to draw; by default the per-layer uniform and piecewise linear ones.
    """
    weight = weight.detach()
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot(xlabel="weight", ylabel="count")
    axes.hist(weight.flatten().cpu().numpy(), bins=100, color=GREY, alpha=0.5)
    for place, quantizer in enumerate(quantizers):
        quantized = quantizer.quantize(weight, bit_width, quantizer.start(weight, bit_width)).detach()
        label = f"{type(quantizer).__name__}, {bit_width} bits: {len(torch.unique(quantized))} levels"
        _draw_levels(axes, quantized, place, label)
    axes.legend(fontsize=8)
    return figure


def site_histograms(sites: Mapping[str, SiteStatistics]) -> Figure:
    """Plot a histogram of each site's float values, with the levels that they are quantized to.

    The title of each panel states the signal-to-noise ratio in dB and the share of clipped values.

    Args:
        sites: Sites by name, at least one.
    """
    columns = min(4, len(sites))
    rows = math.ceil(len(sites) / columns)
    figure = Figure(figsize=(3.2 * columns, 2.2 * rows))
    # fixed margins in inches, since automatic layout of dozens of panels takes seconds
    left, right, bottom, top = (
        0.4 / (3.2 * columns),
        1 - 0.1 / (3.2 * columns),
        0.3 / (2.2 * rows),
        1 - 0.4 / (2.2 * rows),
    )
    figure.subplots_adjust(left, bottom, right, top, wspace=0.2, hspace=0.5)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for (name, site), panel in zip(sites.items(), panels, strict=False):
        counts, edges = np.histogram(site.values.float().cpu().numpy(), bins=60)
        panel.stairs(counts, edges, fill=True, color=GREY, alpha=0.6)
        panel.set_yscale("log")
        panel.minorticks_off()
        _draw_levels(panel, site.quantized, 0, "")
        panel.set_title(f"{name}\n{site.snr:.1f} dB, {site.clipped:.1%} clipped", fontsize=7)
        panel.tick_params(labelsize=6)
    for panel in panels:  # unused panels
        panel.set_visible(False)
    return figure


def _draw_levels(axes: Axes, quantized: Tensor, place: int, label: str) -> None:
    """Draw each level as a vertical line from the bottom, shorter for each further quantizer and if there are many."""
    levels = torch.unique(quantized).float().cpu().numpy()
    color = COLORS[place % len(COLORS)]
    transform = axes.get_xaxis_transform()
    top = (1 - 0.3 * place) * (1 if len(levels) <= DISTINCT else 0.1)
    axes.vlines(levels, 0, top, color, linewidth=0.7, label=label or "_none", transform=transform)
