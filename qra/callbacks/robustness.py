"""Clean accuracy and the PGD curve, as a callback of ``qra test``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning import LightningModule, Trainer
from rich.markup import escape
from torch import Tensor, nn

from qra import checkpoint
from qra.attacks import PGD, Attack, PassCount, Square, UniformStart
from qra.attacks.pixels import PixelType, levels
from qra.callbacks.attack_evaluation import USUAL_N, ChunkedEvaluation, check_n, prepare_source
from qra.callbacks.evaluation import gather
from qra.callbacks.measurement import Measurement
from qra.callbacks.workload import Workload, test_images
from qra.checks import check_count
from qra.data import ImageDataModule, data_of
from qra.evaluation.doubt import SIGNS
from qra.evaluation.outcome import Outcome
from qra.evaluation.protocol import Protocol, Source
from qra.evaluation.signs import EXAMPLES, Signs, find_signs
from qra.evaluation.sources import GradientSource, attack_networks
from qra.losses import prediction
from qra.modules import ImageClassifier
from qra.precision import Precision
from qra.quant import FrozenNetwork
from qra.terminal import console
from qra.types import Batch, Pixels, parse_pixels

CURVE = (0.0, 0.5 / 255, 1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255, 32 / 255)


class RobustnessEvaluation(Measurement):
    """Clean accuracy on all test images, and the PGD curve: robust accuracy over ``eps`` with step size ``eps / 4``.

    Each combination of budget and gradient is evaluated in chunks, as by :class:`AttackEvaluation`. ``gradients`` says
    what the attacker differentiates. ``ste``: the network, with rounding as the identity inside the clip range;
    ``ste_soft``: with clipping as the identity too; ``hard``: the true gradient, which is zero through rounding and
    only serves to diagnose gradient masking; ``surrogate``: another network, whose adversarial examples are tried on
    this one; ``square``: nothing, by the Square attack.

    Args:
        eps: Budgets in pixel units, L-inf. At 32/255 the accuracy should be about 0; otherwise gradients are masked.
        steps: Number of PGD steps from a random start; an example is broken if any iterate is misclassified.
        restarts: Number of random starts of PGD.
        gradients: What the attacker differentiates: any of ``ste``, ``ste_soft``, ``hard``, ``surrogate`` and
            ``square``; each is an outcome of its own.
        surrogate: Checkpoint of the network, such as the float parent, on which ``surrogate`` makes its examples.
        surrogate_network: Architecture of the surrogate, if its checkpoint does not describe one that qra knows.
        queries: Number of queries of ``square``.
        n: Number of test images, class-balanced; ``null`` for all. If the test set is smaller than the default, all
            are used.
        seed: Seed of the choice of images, of the start noise and of the queries.
        batch_size: Number of images of a chunk, which are attacked together.
        search_precision: Precision in which the attacks compute. A success counts only if the network itself is wrong
            in float32, so a faster search can only miss examples. The precision is part of the outcomes' names.
        pixels: What the network receives, ``float`` or ``bytes``; see :class:`AttackEvaluation`.

    Raises:
        ValueError: If a setting is out of its range, or only one of the gradient ``surrogate`` and a surrogate
            checkpoint is given.
    """

    stages = ("test",)

    def __init__(
        self,
        eps: Sequence[Pixels] = CURVE,
        steps: int = 20,
        restarts: int = 1,
        gradients: Sequence[GradientSource] = ("ste",),
        surrogate: str | None = None,
        queries: int = 5000,
        n: int | None = USUAL_N,
        seed: int = 0,
        batch_size: int = 250,
        search_precision: Precision = "float32",
        surrogate_network: nn.Module | None = None,
        pixels: PixelType = "float",
    ) -> None:
        super().__init__()
        if n is not None:
            check_count("n", n)
        check_count("batch_size", batch_size)
        if not gradients or len(set(gradients)) != len(gradients):
            raise ValueError(f"gradients are {list(gradients)}: name at least one, and each once")
        if ("surrogate" in gradients) != (surrogate is not None):
            raise ValueError("gradients: surrogate and a checkpoint as surrogate go together: give both or neither")
        self.n = n
        self.gradients = tuple(sorted(gradients, key=lambda gradient: gradient == "square"))
        self.search_precision = search_precision
        self._surrogate = None if surrogate is None else checkpoint.load(surrogate, surrogate_network)
        self._origin = None if surrogate is None else Source(surrogate, checkpoint.sha256(surrogate))
        self.attacks = [
            PGD(budget, budget / 4, steps, restarts, UniformStart(seed), early_stop=True)
            for budget in _budgets(eps, pixels)
        ]
        self._evaluations: list[tuple[GradientSource, ChunkedEvaluation]] = []
        for pgd, gradient in itertools.product(self.attacks, self.gradients):
            attack = Square(pgd.eps, queries=queries, seed=seed) if gradient == "square" else pgd
            source = self._origin if gradient == "surrogate" else None
            mode = "ste" if gradient == "square" or gradient == "surrogate" else gradient
            protocol = Protocol(attack, mode, source, pixels, search_precision)
            evaluation = ChunkedEvaluation(protocol, n=n, subset_seed=seed, chunk_size=batch_size)
            self._evaluations.append((gradient, evaluation))
        self._clean: list[tuple[Tensor, Tensor]] = []
        self._signs: Signs | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return ("clean", *(evaluation.name for _, evaluation in self._evaluations))

    def check_size(self, images: int) -> None:
        check_n(self.n, images, type(self).__name__)

    def check(self, module: ImageClassifier, data: ImageDataModule, world_size: int) -> None:
        self.check_size(data.size("test"))
        if self._origin is not None:
            checkpoint.check_classes_of(self._origin.path, data.class_names)

    def workload(self, network: nn.Module, data: ImageDataModule) -> Iterator[Workload]:
        targets = attack_networks(network, self.gradients, self._surrogate)
        ways = {(each.protocol.attack, targets[gradient]): each for gradient, each in self._evaluations}
        for evaluation in ways.values():
            yield from evaluation.workload(network, data)
        yield Workload("signs of masked gradients", min(EXAMPLES, test_images(self.n, data)), PassCount(2, 1))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clean, self.outcomes, self._signs = [], {}, None

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: Any, **__: Any
    ) -> None:
        self._clean.append((batch.indices, prediction(outputs) == batch.y))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        indices, correct = (torch.cat(parts) for parts in zip(*self._clean, strict=True))
        self.outcomes["clean"] = gather(trainer, Outcome("clean", "clean", {}, indices, correct))
        targets = self._targets(pl_module)
        done: dict[tuple[Attack, FrozenNetwork], ChunkedEvaluation] = {}
        for gradient, evaluation in self._evaluations:
            way = evaluation.protocol.attack, targets[gradient]
            if way in done:  # the same attack on the same network: its outcome is the same
                evaluation.keep(*done[way].found)
            else:
                evaluation.measure(trainer, pl_module, targets[gradient])
                done[way] = evaluation
            self.outcomes |= evaluation.outcomes
        self._signs = self._look(trainer, pl_module, next(iter(targets.values())))
        for name, outcome in self.outcomes.items():
            pl_module.log(f"test/{name}_acc", outcome.accuracy, sync_dist=True)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self._signs is not None:
            console().print(escape(self._signs.line), soft_wrap=True)

    def record(self) -> dict[str, Any]:
        return {} if self._signs is None else {SIGNS: self._signs.summary()}

    def _look(self, trainer: Trainer, pl_module: ImageClassifier, target: FrozenNetwork) -> Signs:
        """Look for cheap signs of gradient masking on some of the images, the same on every rank."""
        data = data_of(trainer)
        with torch.inference_mode(False):
            batch = data.batch("test", data.choose("test", min(EXAMPLES, test_images(self.n, data))), pl_module.device)
        return find_signs(pl_module.network, target, batch, self.outcomes.values())

    def _targets(self, pl_module: ImageClassifier) -> dict[GradientSource, FrozenNetwork]:
        """Return the network to search on for each gradient; gradients that make no difference share one."""
        if self._surrogate is not None:
            prepare_source(pl_module, self._surrogate)
        targets = attack_networks(pl_module.network, self.gradients, self._surrogate)
        for target in targets.values():
            target.precision = self.search_precision
        return targets


def _budgets(eps: Sequence[Pixels], pixels: PixelType) -> list[float]:
    """Return the budgets in ascending order; of the default curve, only those that bytes can use."""
    budgets = sorted({parse_pixels(budget) for budget in eps})
    if pixels == "bytes" and tuple(eps) == CURVE:
        return [budget for budget in budgets if budget == 0 or levels(budget)]
    return budgets
