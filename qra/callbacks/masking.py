"""The check for gradient masking, as a callback of ``qra test``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from rich.table import Table
from torch import Tensor, nn

from qra import checkpoint
from qra.attacks import PassCount
from qra.callbacks.attack_evaluation import prepare_source
from qra.callbacks.evaluation import Evaluation, gather_examples
from qra.callbacks.loggers import log_figure
from qra.callbacks.workload import Workload, test_images
from qra.data import ImageDataModule
from qra.evaluation.doubt import CHECK
from qra.evaluation.figures import loss_curve, write_png
from qra.evaluation.indicators import ORIGIN, MaskingReport, judge
from qra.evaluation.masking import MaskingSettings, measure, trials, why_no_unrounded
from qra.evaluation.outcome import Outcome
from qra.evaluation.sources import attack_networks
from qra.modules import ImageClassifier
from qra.progress import EvaluationProgress
from qra.quant import GradientMode
from qra.terminal import console, print_table
from qra.types import Batch


class MaskingCheck(Evaluation):
    """Check for gradient masking, which makes attacks fail although adversarial examples exist.

    ``result.json`` gets a verdict, ``sound`` or ``suspect``, with its reasons in words and all indicators with their
    thresholds; ``masking.png`` and the loggers get the loss along the steps of PGD.

    Args:
        settings: Budgets, steps, restarts and queries of the attacks that are tried.
        gradient: How rounding is differentiated: ``ste``, ``ste_soft`` or ``hard``; choose that of the attacks to be
            checked.
        surrogate: Checkpoint of another network, such as the float parent, from which examples are transferred.
        surrogate_network: Architecture of the surrogate, if its checkpoint does not describe one that qra knows.
        n: Number of test images, class-balanced; all of them if there are fewer.
        seed: Seed that selects the images.
        batch_size: Number of images attacked at a time on each rank.
    """

    def __init__(
        self,
        settings: MaskingSettings = MaskingSettings(),
        gradient: GradientMode = "ste",
        surrogate: str | None = None,
        n: int = 200,
        seed: int = 0,
        batch_size: int = 250,
        surrogate_network: nn.Module | None = None,
    ) -> None:
        super().__init__(n, seed, batch_size)
        self.settings = settings
        self.gradient = gradient
        self.report: MaskingReport | None = None
        self._surrogate = None if surrogate is None else checkpoint.load(surrogate, surrogate_network)
        self._surrogate_path = surrogate

    def check(self, module: ImageClassifier, data: ImageDataModule, world_size: int) -> None:
        if self._surrogate_path is not None:
            checkpoint.check_classes_of(self._surrogate_path, data.class_names)

    def workload(self, network: nn.Module, data: ImageDataModule) -> Iterator[Workload]:
        tried = trials(network, self.settings, data.num_classes, self._surrogate is not None)
        passes = reduce(PassCount.plus, (trial.attack.passes(data.num_classes) for trial in tried))
        yield Workload(f"masking check, {len(tried)} attacks", test_images(self.n, data), passes)

    def evaluate(self, network: nn.Module, batches: Sequence[Batch], progress: EvaluationProgress) -> Iterator[Outcome]:
        """Collect the indicators of this rank's examples; they are no outcomes."""

        def on_part(part: str, correct: Tensor | None) -> None:
            progress.start(f"masking check, {part}", 1) if correct is None else progress.advance(correct)

        (target,) = attack_networks(network, [self.gradient]).values()
        surrogate = None
        if self._surrogate is not None:
            (surrogate,) = attack_networks(self._surrogate, ["ste"]).values()
        parts = [measure(network, target, batch, self.settings, surrogate, on_part) for batch in batches]
        self._found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        self._found["indices"] = torch.cat([batch.indices for batch in batches])
        yield from ()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        if self._surrogate is not None:
            prepare_source(pl_module, self._surrogate)
        super().on_test_epoch_end(trainer, pl_module)
        found = gather_examples(trainer, self._found)
        self.report = judge(found, self.settings, why_no_unrounded(pl_module.network))

    def record(self) -> dict[str, Any]:
        return {} if self.report is None else {CHECK: self.report.summary()}

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or self.report is None:
            return
        figure = loss_curve(self.report.losses)
        write_png(Path(trainer.default_root_dir) / "masking.png", figure)
        assert isinstance(pl_module, ImageClassifier)
        log_figure(trainer, "test/masking", figure, pl_module.trained_steps)
        print_table(table(self.report))
        console().print(words(self.report), markup=False, soft_wrap=True)


def table(report: MaskingReport) -> Table:
    """Return a table of the indicators for the terminal, each with its meaning."""
    result = Table("masking check", caption=ORIGIN, caption_justify="left")
    for header in ("value", "suspect beyond", ""):
        result.add_column(header, justify="right")
    result.add_column("meaning", ratio=1)
    for indicator in report.indicators:
        value = "-" if indicator.value is None else f"{indicator.value:.3g}"
        threshold = "-" if indicator.threshold is None else f"{indicator.threshold:g}"
        mark = "[bold red]suspect[/]" if indicator.suspect else ""
        result.add_row(indicator.name.replace("_", " "), value, threshold, mark, indicator.meaning)
    return result


def words(report: MaskingReport) -> str:
    """Return the verdict, its reasons if it is ``suspect``, and otherwise the overstatement that goes unnoticed."""
    if report.verdict == "suspect":
        return "\n".join([f"Verdict: suspect, on {report.n} examples, because", *(f"- {r}" for r in report.reasons)])
    limits = ", ".join(f"{100 * limit:.1f} points by {what}" for what, limit in report.limits.items())
    return (
        f"Verdict: sound. No sign of masked gradients on {report.n} examples. Smaller overstatements of robust "
        f"accuracy would not have been noticed: {limits}."
    )
