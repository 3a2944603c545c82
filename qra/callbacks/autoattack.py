"""AutoAttack on the test images, as a callback of ``qra test`` and ``qra fit``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from lightning import Trainer
from torch import Tensor, nn

from qra.attacks import AutoAttack, RoundingCascade
from qra.attacks.pixels import PixelType
from qra.callbacks.attack_evaluation import USUAL_N, AttackEvaluation, Choice
from qra.data import ImageDataModule
from qra.evaluation.autoattack import upstream
from qra.evaluation.outcome import Outcome
from qra.evaluation.robustness import Watch
from qra.modules import ImageClassifier
from qra.precision import Precision
from qra.quant import FrozenNetwork, GradientMode
from qra.types import Batch


class AutoAttackEvaluation(AttackEvaluation):
    """Robust accuracy under AutoAttack, at the end of ``test`` and, with the best weights, of ``fit``.

    Mode ``chunked`` works like :class:`AttackEvaluation`: each chunk is a batch of its own with a seed of its own,
    which the four attacks process in turn. Mode ``upstream`` is a single call of the authors' code on the network
    itself, in one process, without resumption; its result is the one to compare with published ones.

    Args:
        attack: AutoAttack to run; the defaults are the standard version. Chunk k uses the seed ``seed + k``.
        n: Number of test images; ``null`` for all. If the test set is smaller than the default, all are used.
        subset: How the images are chosen: ``balanced`` over the classes, or ``first``.
        subset_seed: Seed that selects the balanced subset and shuffles the images into chunks.
        chunk_size: Number of images of a chunk, which are attacked together.
        mode: ``chunked`` or ``upstream``.
        search_precision: Precision in which the attacks compute; see :class:`AttackEvaluation`.
        gradient: How the rounding of activations is differentiated: ``ste``, ``ste_soft`` or ``hard``.
        pixels: What the network receives: ``float`` or ``bytes``.

    Raises:
        ValueError: If a setting is out of its range, or mode ``upstream`` is combined with another attack than
            AutoAttack, another precision than float32, or bytes.
    """

    def __init__(
        self,
        attack: AutoAttack = AutoAttack(),
        n: int | None = USUAL_N,
        subset: Choice = "balanced",
        subset_seed: int = 0,
        chunk_size: int = 250,
        mode: Literal["chunked", "upstream"] = "chunked",
        search_precision: Precision = "float32",
        gradient: GradientMode = "ste",
        pixels: PixelType = "float",
    ) -> None:
        if mode == "upstream" and not isinstance(attack, AutoAttack):
            raise ValueError(
                f"mode upstream runs the authors' code of AutoAttack, which has no {attack.title}: leave out mode, or "
                "use callback/autoattack"
            )
        if mode == "upstream" and (search_precision, pixels) != ("float32", "float"):
            raise ValueError(
                f"mode upstream needs search_precision float32 and pixels float, not {search_precision} and {pixels}"
            )
        settings: dict[str, Any] = {"gradient": gradient, "pixels": pixels, "search_precision": search_precision}
        super().__init__(attack, None, n, subset, subset_seed, chunk_size=chunk_size, **settings)
        self.mode = mode
        self.name += "_upstream" if mode == "upstream" else ""

    def check(self, module: ImageClassifier, data: ImageDataModule, world_size: int) -> None:
        super().check(module, data, world_size)
        if self.mode == "upstream" and world_size > 1:
            raise ValueError("mode upstream runs in one process: use chunked on several devices")

    def _chunks(self, indices: Tensor) -> Sequence[Tensor]:
        return super()._chunks(indices) if self.mode == "chunked" else [indices]

    def _settings(self, trainer: Trainer, pl_module: ImageClassifier, indices: Tensor) -> dict[str, Any]:
        return {**super()._settings(trainer, pl_module, indices), "mode": self.mode}

    def _attack_chunk(
        self, network: nn.Module, search: FrozenNetwork, batch: Batch, number: int, watch: Watch
    ) -> Tensor:
        if self.mode == "chunked":
            return super()._attack_chunk(network, search, batch, number, watch)
        assert isinstance(self.attack, AutoAttack)
        correct = upstream(network, self.attack, batch.x, batch.y, self.chunk_size)
        return torch.where(correct, len(self.attack.members()) + 1, 0).to(torch.uint8)

    def _outcomes(self, indices: Tensor, first_broken_by: Tensor) -> Iterator[Outcome]:
        found = super()._outcomes(indices, first_broken_by)
        for outcome in found if self.mode == "chunked" else [next(found)]:
            yield dataclasses.replace(outcome, settings={**outcome.settings, "mode": self.mode})


class RoundingCascadeEvaluation(AutoAttackEvaluation):
    """Robust accuracy under AutoAttack and under the rounding cascade, which continues where AutoAttack ends.

    One run on the same images gives both accuracies, as separate outcomes.

    Args:
        attack: Cascade to run. Chunk k uses the seed ``seed + k``.
        settings: The other arguments of :class:`AutoAttackEvaluation`; the only mode is ``chunked``.
    """

    def __init__(self, attack: RoundingCascade = RoundingCascade(), **settings: Any) -> None:
        super().__init__(attack, **settings)  # type: ignore[arg-type]
