"""Changing the bit widths at the start of a test, as a callback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from qra import checkpoint
from qra.attacks import PassCount
from qra.callbacks.base import Order, PipelineCallback
from qra.callbacks.workload import Workload
from qra.data import ImageDataModule
from qra.describe import describe
from qra.evaluation.identity import CALIBRATED
from qra.modules import ImageClassifier
from qra.quant import QuantScheme, requantize


class Requantization(PipelineCallback):
    """Test a network from quantization-aware training at other bit widths, without training it further.

    Weights are quantized from the float weights kept from training, and activations keep their ranges. Other bit widths
    scale the weights differently, so BatchNorm statistics are re-estimated on the data module's calibration images. The
    network is saved as ``calibrated.ckpt`` in the run directory.

    Args:
        scheme: The checkpoint's quantizers, with the bit widths to test.
    """

    order = Order.CHANGE
    stages = ("test",)
    makes_another_network = True

    def __init__(self, scheme: QuantScheme) -> None:
        self.scheme = scheme
        self._before: QuantScheme | None = None
        self._saved: Path | None = None

    def check(self, module: ImageClassifier, data: ImageDataModule, world_size: int) -> None:
        if module.scheme is None or module.scheme.is_fixed:
            kind = "float" if module.scheme is None else "quantized after training and has no float weights"
            raise ValueError(f"the network is {kind}: other bit widths need one from quantization-aware training")

    def workload(self, network: nn.Module, data: ImageDataModule) -> Iterator[Workload]:
        yield Workload("BatchNorm statistics", data.calibration_size, PassCount(1))

    def preview(self, network: nn.Module, images: Tensor) -> None:
        requantize(network, self.scheme)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        self._before = pl_module.scheme
        with torch.inference_mode(False):
            pl_module.requantize(self.scheme, [batch.x for batch in pl_module.calibration_batches()])
        self._saved = Path(trainer.default_root_dir, "calibrated.ckpt")
        trainer.save_checkpoint(self._saved, weights_only=True)

    def record(self) -> dict[str, Any]:
        if self._saved is None:
            return {}
        return {"trained_scheme": describe(self._before), CALIBRATED: {"sha256": checkpoint.sha256(self._saved)}}
