"""Evaluation of the test images under attack, as a callback of ``qra test``."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from qra.attacks import PGD
from qra.callbacks.progress import EvaluationProgress
from qra.data import balanced_subset
from qra.describe import describe
from qra.evaluation.outcome import Outcome
from qra.evaluation.robustness import robust
from qra.quant.freeze import freeze
from qra.types import Batch, Pixels, parse_pixels

CURVE = tuple(level / 255 for level in (0, 0.5, 1, 2, 4, 8, 16, 32))


class Evaluation(Callback):
    """A measurement of test examples under attack; subclasses write :meth:`evaluate`.

    During ``test`` it keeps the images of a class-balanced subset, each rank those of its own batches, and evaluates
    them after the last batch. Its ``outcomes`` are complete on every rank.

    Args:
        n: Number of test images, class-balanced; all of them if there are fewer.
        seed: Chooses the subset.
        batch_size: Images attacked at a time on each rank.
    """

    def __init__(self, n: int, seed: int = 0, batch_size: int = 250) -> None:
        for name, value in (("n", n), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} is {value}: an evaluation needs at least 1")
        self.n = n
        self.seed = seed
        self.batch_size = batch_size
        self.outcomes: dict[str, Outcome] = {}
        self._chosen = torch.empty(0, dtype=torch.int64)
        self._kept: list[Batch] = []

    @abstractmethod
    def evaluate(self, network: nn.Module, batches: Sequence[Batch], progress: EvaluationProgress) -> Iterator[Outcome]:
        """Measure the examples of this rank.

        Args:
            network: In eval mode.
            batches: Float images in [0, 1] on the device, labels and data set indices.
            progress: To be told of each batch that is done.

        Yields:
            One outcome of these examples after the other, on each rank the same ones.
        """

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        labels = trainer.datamodule.data.test.labels  # type: ignore[attr-defined]
        self._chosen = balanced_subset(labels, min(self.n, len(labels)), self.seed)
        self._kept = []
        self.outcomes = {}

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: Any, **__: Any
    ) -> None:
        chosen = torch.isin(batch.indices, self._chosen.to(batch.indices.device))
        self._kept.append(Batch(*(part[chosen] for part in batch)))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        whole = Batch(*(torch.cat(parts) for parts in zip(*self._kept, strict=True)))
        batches = [Batch(*parts) for parts in zip(*(torch.split(part, self.batch_size) for part in whole), strict=True)]
        network: nn.Module = pl_module.network  # type: ignore[assignment]
        with EvaluationProgress(trainer.is_global_zero and trainer.progress_bar_callback is not None) as progress:
            for part in self.evaluate(network, batches, progress):
                outcome = _gather(trainer, part)
                self.outcomes[outcome.name] = outcome
                pl_module.log(f"test/{outcome.name}_acc", outcome.accuracy, rank_zero_only=True)
        self._kept = []


def _gather(trainer: Trainer, part: Outcome) -> Outcome:
    """Put the ranks' parts of an outcome together, ordered by index."""
    indices, correct = part.indices.cpu(), part.correct.cpu()
    if trainer.world_size > 1:
        parts: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(parts, (indices, correct))
        indices, correct = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
    order = indices.argsort()
    if len(set(indices.tolist())) != len(indices):
        raise RuntimeError("an example was evaluated twice: the test loader must serve each index once")
    return dataclasses.replace(part, indices=indices[order], correct=correct[order])


class RobustnessEvaluation(Evaluation):
    """Clean accuracy on all test images, and the PGD curve: robust accuracy over ``eps`` with steps of ``eps / 4``.

    Args:
        eps: Budgets, in pixel units, L-inf. At 32/255 the accuracy should be about 0, or something hides the gradients.
        steps: Steps of PGD from a random start; an example counts as broken if any iterate is misclassified.
        restarts: Starts of PGD.
        n: Number of test images, class-balanced; all of them if there are fewer.
        seed: Chooses the subset.
        batch_size: Images attacked at a time on each rank.
    """

    def __init__(
        self,
        eps: Sequence[Pixels] = CURVE,
        steps: int = 20,
        restarts: int = 1,
        n: int = 1000,
        seed: int = 0,
        batch_size: int = 250,
    ) -> None:
        super().__init__(n, seed, batch_size)
        self._clean: list[tuple[Tensor, Tensor]] = []
        budgets = sorted({parse_pixels(budget) for budget in eps})
        self.attacks = [
            PGD(eps=budget, step_size=budget / 4, steps=steps, restarts=restarts, early_stop=True) for budget in budgets
        ]

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_test_start(trainer, pl_module)
        self._clean = []

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: Any, **__: Any
    ) -> None:
        super().on_test_batch_end(trainer, pl_module, outputs, batch)
        self._clean.append((batch.indices, outputs.argmax(1) == batch.y))

    def evaluate(self, network: nn.Module, batches: Sequence[Batch], progress: EvaluationProgress) -> Iterator[Outcome]:
        indices, right = (torch.cat(parts) for parts in zip(*self._clean, strict=True))
        yield Outcome("clean", "clean", {}, indices, right)
        frozen = freeze(network)
        indices = torch.cat([batch.indices for batch in batches])
        for attack in self.attacks:
            levels = f"{round(attack.eps * 255, 4):g}"
            title = f"PGD-{attack.steps}"
            progress.start(f"{title}, eps {levels}/255", len(batches))
            parts = []
            for batch in batches:
                parts.append(robust(network, attack, *batch, attack_network=frozen))
                progress.advance(parts[-1])
            yield Outcome(f"pgd{attack.steps}_{levels}", title, describe(attack), indices, torch.cat(parts), attack.eps)
