"""Accuracy on corrupted test images, as a callback of ``qra test``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning import LightningModule, Trainer
from rich.markup import escape
from rich.table import Table
from torch import nn

from qra.attacks import PassCount
from qra.callbacks.evaluation import gather
from qra.callbacks.measurement import Measurement
from qra.callbacks.workload import Workload, test_images
from qra.checks import check_count
from qra.data import CorruptedDataModule, ImageDataModule, corruptions
from qra.evaluation.robustness import is_correct
from qra.evaluation.shifts import Shift, by_shift, corruption_means, shift_outcome, summary
from qra.modules import ImageClassifier
from qra.progress import EvaluationProgress
from qra.running import shows_progress
from qra.terminal import print_table


class CorruptionEvaluation(Measurement):
    """Accuracy on corrupted test images by corruption and severity, and its mean; there is no attacker.

    The files are laid out as in CIFAR-10-C (Hendrycks and Dietterich 2019): ``CORRUPTION.npy`` holds one severity after
    the other, and ``labels.npy`` the labels. Each corruption at each severity is an outcome of the role ``shift``,
    which does not count in any robust accuracy; ``result.json`` has their mean, over severities and then corruptions,
    under ``corruptions``.

    Args:
        root: Directory of the files.
        corruptions: Corruptions to test, as file names without their ending; by default all in the directory.
        severities: Severities to test, numbered from 1, the mildest.
        file_severities: Number of severities in each file.
        n: Number of images of each corruption and severity, class-balanced; ``null`` for all.
        seed: Seed that selects the images, the same for all corruptions.
        batch_size: Number of images in a forward pass.

    Raises:
        ValueError: If a setting is out of its range.
    """

    stages = ("test",)

    def __init__(
        self,
        root: str = "data/CIFAR-10-C",
        corruptions: Sequence[str] | None = None,
        severities: Sequence[int] = (1, 2, 3, 4, 5),
        file_severities: int = 5,
        n: int | None = None,
        seed: int = 0,
        batch_size: int = 1000,
    ) -> None:
        super().__init__()
        if n is not None:
            check_count("n", n)
        check_count("batch_size", batch_size)
        check_count("file_severities", file_severities)
        for severity in severities:
            if not 1 <= severity <= file_severities:
                raise ValueError(f"severity is {severity}: it must be in 1..{file_severities}")
        for name, chosen in (("severities", severities), ("corruptions", corruptions)):
            if chosen is not None and not chosen:
                raise ValueError(f"{name} is empty: name at least one")
        self.root = root
        self.corruptions = corruptions
        self.severities = sorted(set(severities))
        self.file_severities = file_severities
        self.n = n
        self.seed = seed
        self.batch_size = batch_size

    def check(self, module: ImageClassifier, data: ImageDataModule, world_size: int) -> None:
        first = self._data(self._shifts()[0])
        if first.num_classes != data.num_classes or first.image_shape != data.image_shape:
            raise ValueError(
                f"{self.root} has {first.image_shape} images of {first.num_classes} classes, but the data has "
                f"{data.image_shape} of {data.num_classes}"
            )
        if self.n is not None and self.n > first.size("test"):
            raise ValueError(f"n is {self.n}, but {self.root} has {first.size('test')} images per severity")

    def workload(self, network: nn.Module, data: ImageDataModule) -> Iterator[Workload]:
        shifts = self._shifts()
        images = test_images(self.n, self._data(shifts[0]))
        yield Workload(f"{len(shifts)} sets of corrupted images", len(shifts) * images, PassCount(1))

    def _shifts(self) -> list[Shift]:
        there = corruptions(self.root)
        chosen = there if self.corruptions is None else self.corruptions
        if unknown := [name for name in chosen if name not in there]:
            raise ValueError(f"corruption is {unknown[0]!r}: {self.root} has {', '.join(there)}")
        return [Shift(name, severity) for name in dict.fromkeys(chosen) for severity in self.severities]

    def _data(self, shift: Shift) -> CorruptedDataModule:
        data = CorruptedDataModule(self.root, *shift, self.file_severities, augment=False)
        data.setup("test")
        return data

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        shifts, self.outcomes = self._shifts(), {}
        with EvaluationProgress(shows_progress(trainer)) as progress, torch.inference_mode(False):
            for shift in shifts:
                data = self._data(shift)
                mine = data.choose("test", self.n, self.seed)[trainer.global_rank :: trainer.world_size]
                parts = torch.split(mine, self.batch_size)
                progress.start(f"{shift.corruption}, severity {shift.severity}", len(parts))
                found = []
                for part in parts:
                    x, y, _ = data.batch("test", part, pl_module.device)
                    found.append(is_correct(pl_module.network, x, y).cpu())
                    progress.advance(found[-1])
                outcome = gather(trainer, shift_outcome(shift, data.data_hash, mine, torch.cat(found)))
                self.outcomes[outcome.name] = outcome
        pl_module.log("test/corruptions_acc", self.record()["corruptions"]["mean"], sync_dist=True)

    def record(self) -> dict[str, Any]:
        found = summary(outcome.measured for outcome in self.outcomes.values())
        return {"corruptions": found} if found else {}

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self.outcomes:
            print_table(self._table())

    def _table(self) -> Table:
        """Return a table with a row for each corruption and a column for each severity."""
        found = by_shift(outcome.measured for outcome in self.outcomes.values())
        accuracies = {shift: outcome.accuracy for shift, outcome in found.items()}
        table = Table("corruption", *(f"severity {number}" for number in self.severities), "mean")
        for name, mean in corruption_means(accuracies).items():
            cells = (f"{accuracies[Shift(name, severity)].value:.2%}" for severity in self.severities)
            table.add_row(escape(name), *cells, f"{mean:.2%}")
        table.caption = f"mean {self.record()['corruptions']['mean']:.2%}"
        return table
