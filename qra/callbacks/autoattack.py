"""AutoAttack on the test images, as a callback of ``qra test`` and ``qra fit``."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.distributed import ProcessGroup

from qra.attacks import AutoAttack
from qra.callbacks.base import Order
from qra.callbacks.best import restore_best
from qra.callbacks.evaluation import Measurement
from qra.checks import check_count
from qra.data import ImageDataModule, data_of
from qra.describe import describe
from qra.evaluation.autoattack import FIRST_BROKEN_BY, ROBUST, ChunkFiles, attack_chunk, fingerprint, outcomes, upstream
from qra.modules import ImageClassifier
from qra.precision import Precision, suffix
from qra.progress import ChunkProgress
from qra.quant import FrozenNetwork, freeze

_STANDARD = AutoAttack()


class AutoAttackEvaluation(Measurement):
    """Robust accuracy under AutoAttack, at the end of ``test`` and, with the best weights, of ``fit``.

    In mode ``chunked``, the examples are attacked in fixed chunks: each is a batch of its own with a seed of its own,
    which the four attacks take in turn, so that what becomes of an example depends neither on the number of processes
    nor on interruptions. Each finished chunk is a file in ``NAME/`` of the run directory; a run that was killed goes on
    with the first chunk that is missing. Mode ``upstream`` is the one call of the authors' code, on the network itself,
    in one process, without resumption: the figure to set beside published ones.

    Args:
        attack: What to run; the defaults are the standard version. Chunk k takes ``seed + k``.
        n: Number of test images; null for all.
        subset: Which ones: class-balanced, or the first.
        subset_seed: Chooses the balanced subset.
        chunk_size: Images of a chunk, which are attacked together.
        mode: ``chunked`` or ``upstream``.
        search_precision: What the attacks compute in. What they find counts only if the network itself is wrong in
            float32, so a faster search can only miss; the outcome carries its name, and is no standard AutoAttack.
    """

    order = Order.MEASURE_LONG
    stages = ("fit", "test")

    def __init__(
        self,
        attack: AutoAttack = _STANDARD,
        n: int | None = 1000,
        subset: Literal["balanced", "first"] = "balanced",
        subset_seed: int = 0,
        chunk_size: int = 250,
        mode: Literal["chunked", "upstream"] = "chunked",
        search_precision: Precision = "float32",
    ) -> None:
        super().__init__()
        if mode == "upstream" and search_precision != "float32":
            raise ValueError(f"mode upstream is the authors' code in float32: search_precision is {search_precision}")
        if n is not None:
            check_count("n", n)
        check_count("chunk_size", chunk_size)
        self.attack = attack
        self.n = n
        self.subset = subset
        self.subset_seed = subset_seed
        self.chunk_size = chunk_size
        self.mode = mode
        self.search_precision = search_precision

    @property
    def name(self) -> str:
        """Of the outcome, and of the directory with the chunks."""
        ball = f"{self.attack.eps * 255:g}" if self.attack.norm == "linf" else f"l2_{self.attack.eps:g}"
        return f"autoattack_{ball}" + ("_upstream" if self.mode == "upstream" else "") + suffix(self.search_precision)

    def check(self, module: ImageClassifier, data: ImageDataModule, world_size: int) -> None:
        images = data.size("test")
        if self.n is not None and self.n > images:
            raise ValueError(
                f"n is {self.n}, but there are {images} test images: AutoAttackEvaluation takes null for all"
            )
        if self.mode == "upstream" and world_size > 1:
            raise ValueError("mode upstream is one call in one process: use chunked on several devices")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open(trainer, pl_module)  # what cannot be gone on with is said before hours of other attacks

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._measure(trainer, pl_module)
        for name, outcome in self.outcomes.items():
            pl_module.log(f"test/{name}_acc", outcome.accuracy, sync_dist=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        restore_best(trainer, pl_module)
        self._measure(trainer, pl_module)

    def _choose(self, trainer: Trainer) -> Tensor:
        """Positions of the images in the test set, ascending, (n,)."""
        data = data_of(trainer)
        if self.subset == "balanced":
            return data.choose("test", self.n, self.subset_seed)
        return torch.arange(self.n or data.size("test"))

    def _open(self, trainer: Trainer, pl_module: LightningModule) -> ChunkFiles:
        assert isinstance(pl_module, ImageClassifier)
        indices = self._choose(trainer)
        settings = {
            "class": type(self).__qualname__,
            **describe(self.attack)["init_args"],
            "mode": self.mode,
            "n": len(indices),
            "subset": self.subset,
            "subset_seed": self.subset_seed,
            "chunk_size": self.chunk_size,
            "data": data_of(trainer).data_hash,
            "network": fingerprint(pl_module.network, describe(pl_module.scheme)),
        }
        if self.search_precision != "float32":  # left out otherwise, so that older directories are gone on with
            settings["search_precision"] = self.search_precision
        chunk_size = self.chunk_size if self.mode == "chunked" else len(indices)
        return ChunkFiles(Path(trainer.default_root_dir) / self.name, settings, indices, chunk_size)

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        files = self._open(trainer, pl_module)
        group = _patient_group(trainer)
        broken_by = _gather(self._attack(trainer, pl_module, files), group)
        whole = torch.cat([broken_by[number] for number in sorted(broken_by)])
        found = outcomes(self.name, self.attack, self.mode, torch.cat(list(files.chunks)), whole, self.search_precision)
        self.outcomes = {outcome.name: outcome for outcome in found}

    def _attack(self, trainer: Trainer, pl_module: LightningModule, files: ChunkFiles) -> dict[int, Tensor]:
        """What first broke the examples of the chunks of this rank, by number."""
        mine = range(trainer.global_rank, len(files.chunks), trainer.world_size)
        broken_by = {number: found for number in mine if (found := files.read(number)) is not None}
        shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
        with torch.inference_mode(False):
            frozen = freeze(pl_module.network)  # type: ignore[arg-type]
        frozen.precision = self.search_precision
        with ChunkProgress(len(mine), shown) as progress:
            for found in broken_by.values():
                progress.resumed(int((found == FIRST_BROKEN_BY.index(ROBUST)).sum()), len(found))
            for number in mine:
                if number not in broken_by:
                    progress.start(len(files.chunks[number]))
                    broken_by[number] = self._attack_chunk(trainer, frozen, files.chunks[number], number, progress)
                    files.write(number, broken_by[number])
                    progress.finish()
        return broken_by

    def _attack_chunk(
        self, trainer: Trainer, frozen: FrozenNetwork, indices: Tensor, number: int, progress: ChunkProgress
    ) -> Tensor:
        module = trainer.lightning_module
        assert isinstance(module, ImageClassifier)
        attack = dataclasses.replace(self.attack, seed=self.attack.seed + number)
        with torch.inference_mode(False):
            x, y, _ = data_of(trainer).batch("test", indices, module.device)
            if self.mode == "upstream":
                return upstream(module.network, attack, x, y, self.chunk_size)
            return attack_chunk(module.network, frozen, attack, x, y, progress.watch)


def _patient_group(trainer: Trainer) -> ProcessGroup | None:
    """All ranks, ready to wait for the slowest as long as a chunk takes, which may be more than the usual half hour."""
    if trainer.world_size == 1:
        return None
    group = torch.distributed.new_group(backend="gloo", timeout=timedelta(days=30))
    assert isinstance(group, ProcessGroup)  # which every rank is in
    return group


def _gather(mine: dict[int, Tensor], group: ProcessGroup | None) -> dict[int, Tensor]:
    """Put the chunks of all ranks together, on every rank, and dissolve the group."""
    if group is None:
        return mine
    parts: list[Any] = [None] * group.size()
    torch.distributed.all_gather_object(parts, mine, group=group)
    torch.distributed.destroy_process_group(group)
    return {number: broken_by for part in parts for number, broken_by in part.items()}
