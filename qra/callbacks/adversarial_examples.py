from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from qra import noise
from qra.attacks import PGD, Attack
from qra.callbacks.evaluation import Subset
from qra.checks import check_count
from qra.data import data_of
from qra.evaluation.figures import adversarial_grid, write_png
from qra.losses import prediction
from qra.modules import ImageClassifier
from qra.modules.aims import check_attack
from qra.precision import float32
from qra.types import Batch
from qra.writing import write_arrays

BATCH_SIZE = 250
"""Number of images attacked at a time."""


class AdversarialExamples(Callback):
    """Write adversarial test images during ``predict``.

    ``adversarial.npz`` holds ``x`` and ``x_adv`` (float32 in [0, 1], (n, C, H, W)), ``y``, ``clean_prediction``,
    ``adversarial_prediction`` and ``indices`` (int64, (n,)), sorted by ``indices``; ``adversarial.png`` shows some of
    the examples that the attack broke. With several devices each rank writes its own files.

    Args:
        attack: Attack that makes the adversarial images; its aim must be the labels.
        n: Number of test images, class-balanced; all of them if there are fewer.
        seed: Seed that selects the images, and those shown in the picture.
        shown: Number of examples in the picture.
    """

    def __init__(
        self, attack: Attack = PGD(steps=20, early_stop=True), n: int = 100, seed: int = 0, shown: int = 8
    ) -> None:
        check_count("n", n)
        check_count("shown", shown)
        check_attack(attack, on_logits=False, use="predict")
        self.attack = attack
        self.n = n
        self.seed = seed
        self.shown = shown

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._subset = Subset(trainer, self.n, self.seed)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Tensor, batch: Batch, *_: Any, **__: Any
    ) -> None:
        self._subset.add(batch)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        self._parts = [self._attacked(pl_module, *batch) for batch in self._subset.batches(BATCH_SIZE)]

    def _attacked(self, module: ImageClassifier, x: Tensor, y: Tensor, indices: Tensor) -> dict[str, Tensor]:
        with float32(x.device), torch.no_grad():
            x_adv = self.attack(module.attack_network(refresh=False), x, y, index=indices)
            predictions = {
                "clean_prediction": prediction(module(x)),
                "adversarial_prediction": prediction(module(x_adv)),
            }
        found = {"x": x, "x_adv": x_adv, "y": y, "indices": indices, **predictions}
        return {name: value.cpu() for name, value in found.items()}

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.barrier()  # once one rank ends, the others are terminated
        arrays = {name: torch.cat([part[name] for part in self._parts]) for name in self._parts[0]}
        order = arrays["indices"].argsort()
        arrays = {name: value[order] for name, value in arrays.items()}
        rank = f"-rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        target = Path(trainer.default_root_dir) / f"adversarial{rank}.npz"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(target, {name: value.numpy() for name, value in arrays.items()}, compressed=True)
        self._draw(arrays, data_of(trainer).class_names, target.with_suffix(".png"))
        print(f"{len(order)} adversarial examples written to {target}")

    def _draw(self, arrays: dict[str, Tensor], names: Sequence[str], target: Path) -> None:
        was_right = arrays["clean_prediction"] == arrays["y"]
        broken = was_right & (arrays["adversarial_prediction"] != arrays["y"])
        anywhere = noise.uniform((), arrays["indices"], self.seed)  # consecutive images are often of one class
        first = ((~broken).float() + anywhere).argsort()[: self.shown]
        x, x_adv, y, clean, adversarial = (
            arrays[name][first] for name in ("x", "x_adv", "y", "clean_prediction", "adversarial_prediction")
        )
        write_png(target, adversarial_grid(x, x_adv, y, clean, adversarial, names))
