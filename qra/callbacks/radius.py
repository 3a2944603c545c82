"""Smallest adversarial perturbation of each test image, as a callback of ``qra test`` and ``qra fit``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor, nn

from qra.attacks import FMN, Attack
from qra.attacks.pixels import PixelType
from qra.callbacks.attack_evaluation import USUAL_N, AttackEvaluation, Choice
from qra.evaluation.chunks import ChunkFiles
from qra.evaluation.outcome import Outcome
from qra.evaluation.radii import radii_of, smallest_perturbations
from qra.evaluation.robustness import Watch
from qra.precision import Precision
from qra.quant import FrozenNetwork, GradientMode
from qra.types import Batch


class RadiusFiles(ChunkFiles):
    """Chunk files of distances instead of ``first_broken_by``."""

    array = "distances"

    def _can_be(self, found: NDArray[Any], n: int) -> bool:
        return found.dtype == np.float64 and found.shape == (n, 2) and bool((found >= 0).all())


class RadiusEvaluation(AttackEvaluation):
    """Distance to the nearest adversarial image of each test image, at the end of ``test`` and of ``fit``.

    Distances are written to ``radii.npz`` beside ``correct.npz``. A distance is 0 where the clean image is
    misclassified; where no adversarial image was found, it is the largest possible for pixels in [0, 1], marked as
    censored. The outcome says which examples are correct at the attack's ``eps`` and counts among the other attacks
    of that budget.

    Args:
        attack: Attack that finds the nearest adversarial image, such as :class:`qra.attacks.FMN`.
        name: Key of the outcome; by default made from the attack and the other arguments.
        n: Number of test images; ``null`` for all. If the test set is smaller than the default, all are used.
        subset: How the images are chosen: ``balanced`` over the classes, or ``first``.
        subset_seed: Seed that selects the balanced subset and shuffles the images into chunks.
        gradient: How the rounding of activations is differentiated: ``ste``, ``ste_soft`` or ``hard``.
        pixels: What the network receives: ``float`` or ``bytes``. With bytes, L-inf distances are whole multiples of
            1/255.
        chunk_size: Number of images attacked together.
        search_precision: Precision in which the attack computes; see :class:`AttackEvaluation`.

    Raises:
        ValueError: If a setting is out of its range, or the attack does not look for the nearest image.
    """

    files = RadiusFiles

    def __init__(
        self,
        attack: Attack = FMN(),
        name: str | None = None,
        n: int | None = USUAL_N,
        subset: Choice = "balanced",
        subset_seed: int = 0,
        gradient: GradientMode = "ste",
        pixels: PixelType = "float",
        chunk_size: int = 250,
        search_precision: Precision = "float32",
    ) -> None:
        if not attack.finds_nearest:
            raise ValueError(
                f"{type(attack).__name__} searches for any adversarial image in its ball, not the nearest: use FMN"
            )
        settings: dict[str, Any] = {"gradient": gradient, "pixels": pixels, "search_precision": search_precision}
        super().__init__(attack, name, n, subset, subset_seed, chunk_size=chunk_size, **settings)

    def measure(self, trainer: Trainer, pl_module: LightningModule, search: FrozenNetwork | None = None) -> None:
        super().measure(trainer, pl_module, search)
        outcome = self.outcomes[self.name]
        if trainer.is_global_zero and outcome.radii is not None:
            print(f"{self.name}: smallest perturbations: {outcome.radii.words(self.attack.norm)}", flush=True)

    def _unbroken(self, found: Tensor) -> Tensor:
        return found[:, 0] > self.protocol.eps

    def _attack_chunk(
        self, network: nn.Module, search: FrozenNetwork, batch: Batch, number: int, watch: Watch
    ) -> Tensor:
        attack, pixels = self.protocol.attack.in_chunk(number), self.protocol.pixels
        with torch.inference_mode(False):
            return smallest_perturbations(network, attack, batch, search, pixels, watch)

    def _outcomes(self, indices: Tensor, distances: Tensor) -> Iterator[Outcome]:
        radii = radii_of(indices, distances)
        correct = radii.correct(self.protocol.eps)
        title, settings, fields = self.attack.title, self.protocol.settings(), self.protocol.fields()
        yield Outcome(self.name, title, settings, radii.indices, correct, **fields, radii=radii)
