"""Post-training quantization, as a callback."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from qra import checkpoint
from qra.attacks import Attack, PassCount
from qra.callbacks.base import Order
from qra.callbacks.best import restore_best
from qra.callbacks.evaluation import gather
from qra.callbacks.measurement import Measurement
from qra.callbacks.workload import Workload, passes_of
from qra.checks import check_count
from qra.data import ImageDataModule, data_of
from qra.describe import describe, differences
from qra.evaluation.identity import CALIBRATED
from qra.evaluation.outcome import Outcome
from qra.evaluation.robustness import is_correct
from qra.modules import ImageClassifier
from qra.modules.aims import check_attack
from qra.precision import float32
from qra.quant import PWLQ, CalibratedUniform, QuantScheme, Uniform, quantize_after_training
from qra.quant.network import quant_layers
from qra.types import Batch

_DEFAULT = QuantScheme(PWLQ(), CalibratedUniform(), weight_bit_width=4, act_bit_width=8, first_last_bit_width=None)


class PWLQCalibration(Measurement):
    """Post-training quantization of a float network (PWLQ: Fang et al. 2020, arXiv 2002.00104).

    BatchNorm is folded into the convolutions, activation ranges are calibrated on the data module's calibration images
    and weights are quantized. This happens at the end of ``fit``, with the best weights, or at the start of ``test``.
    The quantized network is saved as ``calibrated.ckpt`` in the run directory, and testing that checkpoint does not
    calibrate again.

    Piecewise linear weights of b bits have the resolution, and the memory, of b + 1 bits. Where ``test`` quantizes, it
    therefore also measures the clean accuracy of uniform weights of b + 1 bits.

    Args:
        scheme: Quantizers and bit widths. With ``Uniform`` weights this is ordinary post-training quantization.
        bias_correction: Whether to correct the mean and spread of each channel of the quantized weights.
        batch_size: Number of calibration images that give one sample of a range (4 in the released code).
        attack: Attack on the float network that makes adversarial calibration images; clean ones if not given.

    Raises:
        ValueError: If the scheme quantizes nothing or has activations that are learned in training, or the attack does
            not take labels.
    """

    order = Order.CHANGE
    stages = ("fit", "test")
    makes_another_network = True

    def __init__(
        self,
        scheme: QuantScheme = _DEFAULT,
        bias_correction: bool = False,
        batch_size: int = 4,
        attack: Attack | None = None,
    ) -> None:
        check_count("batch_size", batch_size)
        if not scheme.quantizes_anything:
            raise ValueError(f"{scheme.bits_text} quantizes nothing: give at most 8 bits, or leave the callback out")
        if attack is not None:
            check_attack(attack, on_logits=False, use="calibration")
        if scheme.quantizes_activations and scheme.activation.learned:
            kind = type(scheme.activation).__name__
            raise ValueError(f"{kind} must be trained: calibrate CalibratedUniform activations instead")
        scheme.check_stored()
        self.scheme = scheme
        self.bias_correction = bias_correction
        self.batch_size = batch_size
        self.attack = attack
        super().__init__()
        self._saved: Path | None = None
        self._reference: nn.Module | None = None
        self._correct: list[tuple[Tensor, Tensor]] = []

    def check(self, module: ImageClassifier, data: ImageDataModule, world_size: int) -> None:
        if module.scheme is not None and not module.scheme.is_fixed:
            raise ValueError(
                f"the model was trained with quantization, to {module.scheme}: calibration needs a float one"
            )
        if module.scheme is None:
            data.check_calibration()

    def workload(self, network: nn.Module, data: ImageDataModule) -> Iterator[Workload]:
        made = PassCount(0) if self.attack is None else passes_of(self.attack, data.num_classes)
        yield Workload("calibration", data.calibration_size, made.plus(PassCount(1)))

    def preview(self, network: nn.Module, images: Tensor) -> None:
        if not quant_layers(network):  # a calibrated checkpoint is quantized already
            quantize_after_training(network, self.scheme, list(torch.split(images, self.batch_size)))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        restore_best(trainer, pl_module)
        self._calibrate(trainer, pl_module)

    @torch.inference_mode(False)  # what is made in inference mode can neither be changed nor attacked later
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        self.outcomes, self._correct = {}, []
        if pl_module.scheme is None:
            self._reference = copy.deepcopy(pl_module.network)
            images = self._calibrate(trainer, pl_module)
            self._reference = self._uniform(self._reference, images)
            return
        changed = "; ".join(differences(pl_module.calibration, self._record(trainer)))
        if changed:
            raise ValueError(
                f"{trainer.ckpt_path}: was already calibrated with other settings ({changed}): calibrate the "
                "float checkpoint, or test this one with its own settings"
            )

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: Any, **__: Any
    ) -> None:
        if self._reference is not None:
            self._correct.append((batch.indices, is_correct(self._reference, batch.x, batch.y)))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._reference is not None:
            indices, correct = (torch.cat(parts) for parts in zip(*self._correct, strict=True))
            bits = self.scheme.weight_bit_width + 1
            outcome = Outcome(f"clean_uniform{bits}", f"clean, uniform {bits}-bit weights", {}, indices, correct)
            self.outcomes[outcome.name] = gather(trainer, outcome)
            self._reference = None

    def _uniform(self, network: nn.Module, images: list[Tensor]) -> nn.Module | None:
        """Quantize the float network with uniform weights of one more bit.

        Returns:
            The network; None if weights are not piecewise linear, would take more than 8 bits, or have overrides.
        """
        weight, bits = self.scheme.weight, self.scheme.weight_bit_width + 1
        if not isinstance(weight, PWLQ) or bits > 8 or self.scheme.overrides:
            return None
        scheme = dataclasses.replace(self.scheme, weight=Uniform(weight.per_channel), weight_bit_width=bits)
        with float32(images[0].device):
            quantize_after_training(network, scheme, images, self.bias_correction)
        return network.eval()

    def _calibrate(self, trainer: Trainer, pl_module: ImageClassifier) -> list[Tensor]:
        batches = pl_module.calibration_batches()
        if self.attack is not None:
            frozen = pl_module.attack_network()
            with float32(pl_module.device):
                batches = [b._replace(x=self.attack(frozen, b.x, b.y, index=b.indices)) for b in batches]
        images = [part for batch in batches for part in torch.split(batch.x, self.batch_size)]
        pl_module.quantize_after_training(self.scheme, images, self.bias_correction, self._record(trainer))
        self._saved = Path(trainer.default_root_dir, "calibrated.ckpt")
        pl_module.weights = str(self._saved)
        trainer.save_checkpoint(self._saved, weights_only=True)
        return images

    def record(self) -> dict[str, Any]:
        return {} if self._saved is None else {CALIBRATED: {"sha256": checkpoint.sha256(self._saved)}}

    def _record(self, trainer: Trainer) -> dict[str, Any]:
        """Return what the calibration depends on, as it is stored in checkpoints."""
        names = ("scheme", "bias_correction", "batch_size", "attack")
        settings = {name: describe(getattr(self, name)) for name in names}
        settings["images"] = data_of(trainer).calibration_size
        return {"class_path": "qra.callbacks.PWLQCalibration", "init_args": settings}
