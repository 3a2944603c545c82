"""Base class of evaluations of test images under attack: the images they use, and the gathering from all ranks."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from qra.callbacks.measurement import Measurement
from qra.checks import check_count
from qra.data import data_of
from qra.evaluation.outcome import Outcome
from qra.modules import ImageClassifier
from qra.progress import EvaluationProgress
from qra.running import shows_progress
from qra.types import Batch


class Subset:
    """Those images of a class-balanced subset of the test set that a run has served on this rank.

    Args:
        trainer: Trainer of ``test`` or ``predict``, which may be limited to some batches.
        n: Number of images; all of them if there are fewer.
        seed: Seed that selects the images.
    """

    def __init__(self, trainer: Trainer, n: int, seed: int) -> None:
        self._data = data_of(trainer)
        self._chosen = self._data.choose("test", n, seed)
        self._served: list[Tensor] = []

    def add(self, batch: Batch) -> None:
        """Record a batch that was served."""
        self._served.append(batch.indices)

    def batches(self, batch_size: int) -> list[Batch]:
        """Return float images in [0, 1] on the device, with labels and indices; one empty batch if there are none."""
        served = torch.cat(self._served).cpu()
        return list(self._data.batches("test", served[torch.isin(served, self._chosen)], batch_size))


class Evaluation(Measurement):
    """A measurement of test examples under attack; subclasses implement :meth:`evaluate`.

    After the last batch of ``test``, each rank evaluates those images of a class-balanced subset that were in its own
    batches. Its ``outcomes`` are complete on every rank.

    Args:
        n: Number of test images, class-balanced; all of them if there are fewer.
        seed: Seed that selects the images.
        batch_size: Number of images attacked at a time on each rank.
    """

    stages = ("test",)

    def __init__(self, n: int, seed: int = 0, batch_size: int = 250) -> None:
        check_count("n", n)
        check_count("batch_size", batch_size)
        super().__init__()
        self.n = n
        self.seed = seed
        self.batch_size = batch_size

    @abstractmethod
    def evaluate(self, network: nn.Module, batches: Sequence[Batch], progress: EvaluationProgress) -> Iterator[Outcome]:
        """Measure the examples of this rank.

        Args:
            network: Network in eval mode.
            batches: Float images in [0, 1] on the device, labels and dataset indices.
            progress: Progress bar, to be advanced after each batch.

        Yields:
            One outcome of these examples after the other, the same ones on each rank.
        """

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._subset = Subset(trainer, self.n, self.seed)
        self.outcomes = {}

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: Any, **__: Any
    ) -> None:
        self._subset.add(batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        with EvaluationProgress(shows_progress(trainer)) as progress:
            for part in self.evaluate(pl_module.network, self._subset.batches(self.batch_size), progress):
                outcome = gather(trainer, part)
                self.outcomes[outcome.name] = outcome
                pl_module.log(f"test/{outcome.name}_acc", outcome.accuracy, sync_dist=True)


def gather(trainer: Trainer, part: Outcome) -> Outcome:
    """Combine the parts of an outcome that the ranks have, ordered by index."""
    examples = {"indices": part.indices, "correct": part.correct}
    whole: dict[str, Any] = gather_examples(trainer, examples)
    return dataclasses.replace(part, **whole)


def gather_examples(trainer: Trainer, examples: dict[str, Tensor]) -> dict[str, Tensor]:
    """Combine the per-example tensors of all ranks, on the CPU, ordered by index.

    Args:
        trainer: The trainer.
        examples: Tensors by name with one row per example, (n, ...), including ``indices``.

    Raises:
        RuntimeError: If an example was evaluated twice.
    """
    mine = {name: value.cpu() for name, value in examples.items()}
    parts = [mine]
    if trainer.world_size > 1:
        parts = [{}] * trainer.world_size
        torch.distributed.all_gather_object(parts, mine)
    whole = {name: torch.cat([each[name] for each in parts]) for name in mine}
    order = whole["indices"].argsort()
    if len(set(whole["indices"].tolist())) != len(order):
        raise RuntimeError("an example was evaluated twice: the test loader must serve each index once")
    return {name: value[order] for name, value in whole.items()}
