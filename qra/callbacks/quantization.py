"""Cost of a quantized network, and statistics of its quantizers during training."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.table import Table

from qra.callbacks.base import Order, PipelineCallback
from qra.callbacks.loggers import log_figure
from qra.data import data_of
from qra.evaluation.quantization_figures import site_histograms
from qra.modules import ImageClassifier
from qra.quant import Cost, QuantScheme, cost
from qra.quant.cost import label
from qra.quant.network import fake_quantizers
from qra.quant.scheme import OFF
from qra.quant.statistics import SiteStatistics, activation_statistics, weight_statistics
from qra.terminal import print_table
from qra.types import Batch


class QuantizationSummary(PipelineCallback):
    """Print the bits, parameters and BitOPs of each layer of a quantized network when ``fit`` or ``test`` starts."""

    order = Order.MEASURE

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        if pl_module.scheme is not None and trainer.is_global_zero:
            shape = data_of(trainer).image_shape
            print_table(cost_table(pl_module.scheme, cost(pl_module.network, shape)))

    on_test_start = on_fit_start


def cost_table(scheme: QuantScheme, found: Cost) -> Table:
    """Return a table of the layers of a network and their costs."""
    table = Table(title=label(scheme, found), title_justify="left", show_footer=True, caption_justify="left")
    table.add_column("layer", "whole network")
    whole = ("", "", f"{found.parameters:,}", f"{found.multiply_adds / 1e6:.2f}", f"{found.bit_ops / 1e6:,.1f}")
    names = ("weight bits", "input bits", "parameters", "10⁶ mult-adds", "10⁶ BitOPs")
    for name, footer in zip(names, whole, strict=True):
        table.add_column(name, footer, justify="right")
    for layer in found.layers:
        counts = (f"{layer.weights:,}", f"{layer.multiply_adds / 1e6:.2f}", f"{layer.bit_ops / 1e6:,.1f}")
        table.add_row(layer.name, str(layer.weight_bits), str(layer.input_bits), *counts)
    smaller = OFF * found.parameters / found.size_in_bits
    fewer = OFF * OFF * found.multiply_adds / found.bit_ops
    table.caption = (
        f"{found.size_in_bits:,} bits of parameters, {smaller:.1f} times less than float; {fewer:.0f} times fewer "
        "BitOPs (multiply-adds times weight bits times input bits, of one image, whose pixels count 8 bits; an average "
        "counts at the bits of what is averaged)"
    )
    bits = {(layer.weight_bits, layer.stored_bits) for layer in found.layers}
    if stored := [f"{used} bits take {kept}" for used, kept in sorted(bits) if used != kept]:
        table.caption += f"; in memory, weights of {', '.join(stored)}, which BitOPs do not count"
    if found.uncounted:
        more = f" and {len(found.uncounted) - 3} more" if len(found.uncounted) > 3 else ""
        table.caption += f"; not counted: {', '.join(found.uncounted[:3])}{more}"
    return table


class QuantizationMonitor(PipelineCallback):
    """Log statistics of the quantizers to TensorBoard after each validation, from its first batch.

    They are the learned parameters (``quant/alpha/...``, a histogram if there is one per channel), the clipped share of
    activations (``quant/clipped/...``) and the signal-to-noise ratio of weights and activations in decibels
    (``quant/snr/...``), with histograms. When training ends, all loggers get histograms of all sites with the
    quantization grid.
    """

    order = Order.MEASURE

    def __init__(self) -> None:
        self._x = torch.empty(0)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0:
            self._x = batch.x

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for board in _boards(trainer, pl_module):
            step = trainer.global_step
            for name, quantizer in fake_quantizers(pl_module).items():
                for learned, value in quantizer.named_parameters():
                    write = board.add_scalar if value.numel() == 1 else board.add_histogram
                    write(f"quant/{learned}/{name.removeprefix('network.')}", value.detach(), step)
            for name, site in self._sites(pl_module).items():
                board.add_scalar(f"quant/snr/{name}", site.snr, step)
                board.add_histogram(f"quant/{name}", site.values, step)
                if not name.startswith("weight"):
                    board.add_scalar(f"quant/clipped/{name}", site.clipped, step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not fake_quantizers(pl_module) or not trainer.loggers:
            return
        for kind in ("weight", "activation"):
            sites = {name: site for name, site in self._sites(pl_module).items() if name.startswith(kind)}
            if sites:
                log_figure(trainer, f"quant/{kind}", site_histograms(sites), trainer.global_step)

    def _sites(self, pl_module: LightningModule) -> dict[str, SiteStatistics]:
        assert isinstance(pl_module, ImageClassifier)
        weights = {f"weight/{name}": site for name, site in weight_statistics(pl_module.network).items()}
        if not len(self._x):
            return weights
        activations = activation_statistics(pl_module.network, self._x)
        return {**weights, **{f"activation/{name}": site for name, site in activations.items()}}


def _boards(trainer: Trainer, pl_module: LightningModule) -> list[Any]:
    """Return the TensorBoard writers; none for a float network."""
    if not fake_quantizers(pl_module):
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
