"""Evaluation of the test images under attack, as a callback of ``qra test``."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from qra import checkpoint
from qra.attacks import PGD, Square, UniformStart
from qra.callbacks.base import Order, PipelineCallback
from qra.callbacks.subset import Subset
from qra.checks import check_count
from qra.describe import describe
from qra.evaluation.outcome import Outcome, worst_case
from qra.evaluation.robustness import attacked, correct_as_bytes, is_correct, robust
from qra.evaluation.sources import GradientSource, attack_networks, check_classes
from qra.losses import prediction
from qra.precision import Precision, suffix
from qra.progress import EvaluationProgress
from qra.types import Batch, Pixels, parse_pixels

CURVE = (0.0, 0.5 / 255, 1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255, 32 / 255)


class Measurement(PipelineCallback):
    """A callback that measures test examples.

    Attributes:
        outcomes: What it found, by name; complete on every rank once it is done.
    """

    order = Order.MEASURE

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}


class Evaluation(Measurement):
    """A measurement of test examples under attack; subclasses write :meth:`evaluate`.

    After the last batch of ``test`` each rank evaluates, of a class-balanced subset, the images that were in its own
    batches. Its ``outcomes`` are complete on every rank.

    Args:
        n: Number of test images, class-balanced; all of them if there are fewer.
        seed: Chooses the subset.
        batch_size: Images attacked at a time on each rank.
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
            network: In eval mode.
            batches: Float images in [0, 1] on the device, labels and data set indices.
            progress: To be told of each batch that is done.

        Yields:
            One outcome of these examples after the other, on each rank the same ones.
        """

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._subset = Subset(trainer, self.n, self.seed)
        self.outcomes = {}

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: Any, **__: Any
    ) -> None:
        self._subset.add(batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        network: nn.Module = pl_module.network  # type: ignore[assignment]
        with EvaluationProgress(trainer.is_global_zero and trainer.progress_bar_callback is not None) as progress:
            for part in self.evaluate(network, self._subset.batches(self.batch_size), progress):
                outcome = gather(trainer, part)
                self.outcomes[outcome.name] = outcome
                pl_module.log(f"test/{outcome.name}_acc", outcome.accuracy, sync_dist=True)


def gather(trainer: Trainer, part: Outcome) -> Outcome:
    """Put the ranks' parts of an outcome together, ordered by index."""
    examples = {"indices": part.indices, "correct": part.correct}
    if part.correct_as_bytes is not None:
        examples["correct_as_bytes"] = part.correct_as_bytes
    whole: dict[str, Any] = gather_examples(trainer, examples)
    return dataclasses.replace(part, **whole)


def gather_examples(trainer: Trainer, examples: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put what the ranks know of their examples together, on the CPU, ordered by index.

    Args:
        trainer: The trainer.
        examples: Tensors with one row for each example, (n, ...), by name; ``indices`` among them.
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


class RobustnessEvaluation(Evaluation):
    """Clean accuracy on all test images, and the PGD curve: robust accuracy over ``eps`` with steps of ``eps / 4``.

    ``gradients`` says what an attacker differentiates. ``ste``: the network, rounding counted as the identity inside
    the clip range; ``ste_soft``: clipping counted as the identity too; ``hard``: the true gradient, zero through
    rounding, which only serves to diagnose gradient masking; ``surrogate``: another network, the examples being
    transferred; ``square``: nothing, the Square attack being tried on what survives the others. With several of them,
    an example counts as robust (``worst_8``) if it survives all.

    Args:
        eps: Budgets, in pixel units, L-inf. At 32/255 the accuracy should be about 0, or something hides the gradients.
        steps: Steps of PGD from a random start; an example counts as broken if any iterate is misclassified.
        restarts: Starts of PGD.
        gradients: What the attacker differentiates; each is an outcome of its own.
        surrogate: Checkpoint of the network whose examples ``surrogate`` transfers, such as the float one.
        surrogate_network: Its architecture, if the checkpoint does not describe it or is of a class of your own.
        queries: Number of queries of ``square``.
        n: Number of test images, class-balanced; all of them if there are fewer.
        seed: Chooses the subset and the start noise.
        batch_size: Images attacked at a time on each rank.
        search_precision: What the attacks compute in. What they find counts only if the network itself is wrong in
            float32, so a faster search can only miss; outcomes carry its name.
    """

    def __init__(
        self,
        eps: Sequence[Pixels] = CURVE,
        steps: int = 20,
        restarts: int = 1,
        gradients: Sequence[GradientSource] = ("ste",),
        surrogate: str | None = None,
        queries: int = 5000,
        n: int = 1000,
        seed: int = 0,
        batch_size: int = 250,
        search_precision: Precision = "float32",
        surrogate_network: nn.Module | None = None,
    ) -> None:
        super().__init__(n, seed, batch_size)
        self.search_precision = search_precision
        if not gradients or len(set(gradients)) != len(gradients):
            raise ValueError(f"gradients are {list(gradients)}: name at least one, and each once")
        if ("surrogate" in gradients) != (surrogate is not None):
            raise ValueError("gradients: surrogate and a checkpoint as surrogate go together: give both or neither")
        self.gradients = tuple(sorted(gradients, key=lambda gradient: gradient == "square"))
        self.surrogate = surrogate
        self._surrogate = None if surrogate is None else checkpoint.load(surrogate, surrogate_network)
        self.square = Square(queries=queries, seed=seed)
        self._clean: list[tuple[Tensor, Tensor]] = []
        budgets = sorted({parse_pixels(budget) for budget in eps})
        self.attacks = [
            PGD(budget, budget / 4, steps, restarts, UniformStart(seed), early_stop=True) for budget in budgets
        ]

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_test_start(trainer, pl_module)
        self._clean = []

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: Any, **__: Any
    ) -> None:
        super().on_test_batch_end(trainer, pl_module, outputs, batch)
        self._clean.append((batch.indices, prediction(outputs) == batch.y))

    def evaluate(self, network: nn.Module, batches: Sequence[Batch], progress: EvaluationProgress) -> Iterator[Outcome]:
        indices, correct = (torch.cat(parts) for parts in zip(*self._clean, strict=True))
        yield Outcome("clean", "clean", {}, indices, correct)
        if self._surrogate is not None:
            check_classes(network, self._surrogate.to(batches[0].x.device), batches[0].x[:1])
        targets = attack_networks(network, self.gradients, self._surrogate)
        for target in targets.values():
            target.precision = self.search_precision
        for attack in self.attacks:
            found: dict[nn.Module, Outcome] = {}  # gradient modes share a target where nothing is rounded
            members: list[Outcome] = []
            for gradient, target in targets.items():
                if gradient == "square":
                    members.append(self._square(attack.eps, network, target, batches, members, progress))
                else:
                    if target not in found:
                        found[target] = self._outcome(attack, gradient, network, target, batches, progress)
                    members.append(dataclasses.replace(found[target], **self._names(attack, gradient)))
                yield members[-1]
            if len(members) > 1:
                yield worst_case(f"worst_{_levels(attack.eps)}{suffix(self.search_precision)}", members)

    def _square(
        self,
        eps: float,
        network: nn.Module,
        target: nn.Module,
        batches: Sequence[Batch],
        others: Sequence[Outcome],
        progress: EvaluationProgress,
    ) -> Outcome:
        """What Square leaves of the examples that survive the others."""
        attack = dataclasses.replace(self.square, eps=eps)
        progress.start(f"Square on survivors, eps {_levels(eps)}/255", len(batches))
        indices = torch.cat([batch.indices for batch in batches])
        survivors = torch.stack(
            [other.correct for other in others] or [torch.cat([is_correct(network, b.x, b.y) for b in batches])]
        ).all(0)
        parts = []
        for batch, correct in zip(batches, torch.split(survivors, self.batch_size), strict=True):
            left = correct.nonzero().squeeze(1)
            if len(left) and eps > 0:
                x, y, places = (part[left] for part in batch)
                correct[left] = robust(network, attack, x, y, places, attack_network=target)
            parts.append(correct)
            progress.advance(correct)
        name = f"square_{_levels(eps)}{suffix(self.search_precision)}"
        return Outcome(
            name,
            "Square on survivors",
            describe(attack),
            indices,
            torch.cat(parts),
            eps,
            survivors_of=[other.name for other in others],
            search_precision=self.search_precision,
        )

    def _outcome(
        self,
        attack: PGD,
        gradient: GradientSource,
        network: nn.Module,
        target: nn.Module,
        batches: Sequence[Batch],
        progress: EvaluationProgress,
    ) -> Outcome:
        names = self._names(attack, gradient)
        progress.start(f"{names['title']} {gradient}, eps {_levels(attack.eps)}/255", len(batches))
        attack = self._as_made(attack, gradient)
        parts, as_bytes = [], []
        for batch in batches:
            correct, x_adv = attacked(network, attack, *batch, attack_network=target)
            parts.append(correct)
            as_bytes.append(correct_as_bytes(network, attack, batch, correct, x_adv, target))
            progress.advance(correct)
        indices = torch.cat([batch.indices for batch in batches])
        return Outcome(
            **names, indices=indices, correct=torch.cat(parts), eps=attack.eps, correct_as_bytes=torch.cat(as_bytes)
        )

    @staticmethod
    def _as_made(attack: PGD, gradient: GradientSource) -> PGD:
        """The attack as it is run: what just breaks a surrogate would hardly be transferred, so it goes on there."""
        return dataclasses.replace(attack, early_stop=False) if gradient == "surrogate" else attack

    def _names(self, attack: PGD, gradient: GradientSource) -> dict[str, Any]:
        end = ("" if gradient == "ste" else f"_{gradient}") + suffix(self.search_precision)
        source = {}
        if gradient == "surrogate":
            assert self.surrogate is not None
            source = {"path": self.surrogate, "sha256": checkpoint.sha256(self.surrogate)}
        return {
            "name": f"pgd{attack.steps}_{_levels(attack.eps)}{end}",
            "title": f"PGD-{attack.steps}" + (f" x {attack.restarts}" if attack.restarts > 1 else ""),
            "settings": describe(self._as_made(attack, gradient)),
            "gradient": "" if source else gradient,
            "source": source,
            "search_precision": self.search_precision,
        }


def _levels(eps: float) -> str:
    return f"{round(eps * 255, 4):g}"
