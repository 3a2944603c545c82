"""Evaluation of any attack on the test images, as a callback of ``qra test`` and ``qra fit``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from qra import checkpoint
from qra.attacks import Attack
from qra.attacks.pixels import PixelType
from qra.callbacks.base import Order
from qra.callbacks.best import restore_best
from qra.callbacks.measurement import Measurement
from qra.callbacks.workload import Workload, attack_workload
from qra.checks import check_count
from qra.data import ImageDataModule, data_of
from qra.describe import describe
from qra.evaluation.chunks import CHUNKS, ChunkFiles, code_of, fingerprint, shuffled
from qra.evaluation.outcome import Outcome
from qra.evaluation.protocol import UNROUNDED, Protocol, Source, Unrounded, changed_radius
from qra.evaluation.robustness import Watch, members
from qra.evaluation.sources import check_classes
from qra.modules import ImageClassifier
from qra.precision import Precision
from qra.progress import ChunkProgress
from qra.quant import FrozenNetwork, GradientMode
from qra.running import shows_progress
from qra.types import Batch
from qra.version import __version__

Choice = Literal["balanced", "first"]

USUAL_N = 1000
"""Default number of test images; unlike an explicit number, it may exceed the size of the test set."""


class ChunkedEvaluation(Measurement):
    """Robust accuracy under an attack, measured in chunks by any number of processes.

    Args:
        protocol: How the images are attacked.
        name: Key of the outcome; that of the protocol by default.
        n: Number of test images; ``null`` for all.
        subset: How the images are chosen: ``balanced`` over the classes, or ``first``.
        subset_seed: Seed that selects the balanced subset and shuffles the images into chunks.
        chunk_size: Number of images attacked together.
        source: The source network of the protocol, if it has one.

    Raises:
        ValueError: If a setting is out of its range.
    """

    order = Order.MEASURE_LONG
    stages = ("fit", "test")
    files = ChunkFiles
    """How chunks are stored."""

    def __init__(
        self,
        protocol: Protocol,
        name: str | None = None,
        n: int | None = USUAL_N,
        subset: Choice = "balanced",
        subset_seed: int = 0,
        chunk_size: int = 250,
        source: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if n is not None:
            check_count("n", n)
        check_count("chunk_size", chunk_size)
        self.protocol = protocol
        self.name = protocol.name if name is None else checked_name(name)
        self.n = n
        self.subset = subset
        self.subset_seed = subset_seed
        self.chunk_size = chunk_size
        self._source = source

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *(prefix.name for prefix in self.protocol.prefixes()))

    def check_size(self, images: int) -> None:
        check_n(self.n, images, type(self).__name__)

    def check(self, module: ImageClassifier, data: ImageDataModule, world_size: int) -> None:
        self.check_size(data.size("test"))
        self.protocol.check(module.network)
        if isinstance(self.protocol.source, Source):
            checkpoint.check_classes_of(self.protocol.source.path, data.class_names)

    def workload(self, network: nn.Module, data: ImageDataModule) -> Iterator[Workload]:
        if self.protocol.source != UNROUNDED or self.protocol.skipped(network) is None:
            yield attack_workload(self.protocol.words, self.n, self.protocol.attack, data)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.measure(trainer, pl_module)
        for name, outcome in self.outcomes.items():
            pl_module.log(f"test/{name}_acc", outcome.accuracy, sync_dist=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        restore_best(trainer, pl_module)
        self.measure(trainer, pl_module)

    def measure(self, trainer: Trainer, pl_module: LightningModule, search: FrozenNetwork | None = None) -> None:
        """Attack the chunks of this rank and gather those of all ranks.

        Args:
            trainer: The trainer.
            pl_module: Module with the network to evaluate.
            search: Network that the attack searches on; made by the protocol if not given.
        """
        assert isinstance(pl_module, ImageClassifier)
        files = self._open(trainer, pl_module)
        earlier = Path(trainer.default_root_dir) / self.name
        if (earlier / "settings.json").exists():
            rank_zero_info(f"{earlier} holds chunks of an earlier version in another order: it is not used; remove it")
        group = _patient_group(trainer)
        found = _gather(self._attack(trainer, pl_module, files, search), group)
        self.keep(torch.cat(list(files.chunks)), torch.cat([found[number] for number in sorted(found)]))

    def keep(self, indices: Tensor, first_broken_by: Tensor) -> None:
        """Set the outcomes from ``first_broken_by`` of the examples ``indices``; both are (n,)."""
        self.found = indices, first_broken_by
        self.outcomes = {outcome.name: outcome for outcome in self._outcomes(indices, first_broken_by)}

    def _outcomes(self, indices: Tensor, first_broken_by: Tensor) -> Iterator[Outcome]:
        yield from self.protocol.outcomes(self.name, indices, first_broken_by)

    def _chunks(self, indices: Tensor) -> Sequence[Tensor]:
        return torch.split(shuffled(indices, self.subset_seed), self.chunk_size)

    def _settings(self, trainer: Trainer, pl_module: ImageClassifier, indices: Tensor) -> dict[str, Any]:
        """Return everything that the chunks depend on."""
        return {
            "attack": self.protocol.settings(),
            **self.protocol.fields(),
            "n": len(indices),
            "subset": self.subset,
            "subset_seed": self.subset_seed,
            "chunk_size": self.chunk_size,
            "data": data_of(trainer).data_hash,
            "network": fingerprint(pl_module.network, describe(pl_module.scheme)),
            "code": code_of(self.protocol.attack, pl_module.network),
            "version": __version__,
        }

    def _open(self, trainer: Trainer, pl_module: ImageClassifier) -> ChunkFiles:
        indices = choose(trainer, self.n, self.subset, self.subset_seed)
        settings = self._settings(trainer, pl_module, indices)
        chunks = Path(trainer.default_root_dir) / CHUNKS
        return self.files(chunks, self.name, settings, self._chunks(indices), len(members(self.protocol.attack)))

    def _attack(
        self, trainer: Trainer, pl_module: ImageClassifier, files: ChunkFiles, search: FrozenNetwork | None
    ) -> dict[int, Tensor]:
        """Return what first broke each example, for the chunks of this rank, by chunk number."""
        mine = range(trainer.global_rank, len(files.chunks), trainer.world_size)
        done = {number: found for number in mine if (found := files.read(number)) is not None}
        several = len(members(self.protocol.attack)) > 1
        with ChunkProgress(self.protocol.words, len(mine), shows_progress(trainer), lines=several) as progress:
            for found in done.values():
                progress.resumed(int(self._unbroken(found).sum()), len(found))
            for number in mine:
                if number not in done:
                    search = self._search_network(pl_module) if search is None else search
                    progress.start(len(files.chunks[number]))
                    with torch.inference_mode(False):
                        batch = data_of(trainer).batch("test", files.chunks[number], pl_module.device)
                    done[number] = self._attack_chunk(pl_module.network, search, batch, number, progress.watch)
                    files.write(number, done[number])
                    progress.finish()
        return done

    def _unbroken(self, found: Tensor) -> Tensor:
        """Return which examples of a chunk stay correct, bool (n,)."""
        return found > len(members(self.protocol.attack))

    def _search_network(self, pl_module: ImageClassifier) -> FrozenNetwork:
        if self._source is not None:
            prepare_source(pl_module, self._source)
        return self.protocol.search_network(pl_module.network, self._source)

    def _attack_chunk(
        self, network: nn.Module, search: FrozenNetwork, batch: Batch, number: int, watch: Watch
    ) -> Tensor:
        """Return what first broke each example, as :class:`ChunkFiles` stores it."""
        return self.protocol.attack_chunk(network, search, batch, number, watch)


class AttackEvaluation(ChunkedEvaluation):
    """Accuracy under any attack, at the end of ``test`` and, with the best weights, of ``fit``.

    The examples are shuffled once and attacked in fixed chunks, so that the result of an example depends neither on
    the number of processes nor on interruptions. Each finished chunk is a file in ``chunks/`` of the run directory; a
    run that was killed, or is repeated, resumes at the first missing chunk.

    Args:
        attack: A class of ``qra.attacks``, or one of your own that has ``eps`` and, for L2, ``norm``.
        name: Key of the outcome; by default made from the attack and the other arguments.
        n: Number of test images; ``null`` for all. If the test set is smaller than the default, all are used.
        subset: How the images are chosen: ``balanced`` over the classes, or ``first``.
        subset_seed: Seed that selects the balanced subset and shuffles the images into chunks.
        gradient: How the rounding of activations is differentiated: ``ste``, ``ste_soft``, or ``hard``, which only
            serves to diagnose gradient masking.
        source: Checkpoint of another network on which the adversarial examples are made that are tried on this one, or
            ``unrounded``: this network with its quantized weights and clip levels but without rounding of activations.
        source_network: Architecture of the source, if the checkpoint does not describe it or its class is your own.
        pixels: What the network receives: ``float`` or ``bytes``. Rounding to bytes is part of the attack, which
            differentiates it straight through, and every success is verified on actual bytes.
        chunk_size: Number of images attacked together.
        search_precision: Precision in which the attack computes. A success counts only if the network itself is wrong
            in float32, so a faster search can only miss examples. The precision is part of the outcome's name.

    Raises:
        ValueError: If a setting is out of its range, or the attack cannot be evaluated.
    """

    def __init__(
        self,
        attack: Attack,
        name: str | None = None,
        n: int | None = USUAL_N,
        subset: Choice = "balanced",
        subset_seed: int = 0,
        gradient: GradientMode = "ste",
        source: str | None = None,
        source_network: nn.Module | None = None,
        pixels: PixelType = "float",
        chunk_size: int = 250,
        search_precision: Precision = "float32",
    ) -> None:
        origin: Source | Unrounded | None = UNROUNDED if source == UNROUNDED else None
        network = None
        if source is not None and source != UNROUNDED:
            network, origin = checkpoint.load(source, source_network), Source(source, checkpoint.sha256(source))
        protocol = Protocol(attack, gradient, origin, pixels, search_precision)
        super().__init__(protocol, name, n, subset, subset_seed, chunk_size, network)
        self.attack = attack

    def measure(self, trainer: Trainer, pl_module: LightningModule, search: FrozenNetwork | None = None) -> None:
        assert isinstance(pl_module, ImageClassifier)
        skipped = self.protocol.skipped(pl_module.network)
        for line in filter(None, (changed_radius(self.attack, self.protocol), skipped)):
            if trainer.is_global_zero:
                print(f"{self.name}: {line}", flush=True)
        if skipped is None or self.protocol.source != UNROUNDED:
            super().measure(trainer, pl_module, search)
        else:
            self.outcomes = {}


def checked_name(name: str) -> str:
    """Return the name of an outcome if it can serve as a key in files and as part of a path.

    Raises:
        ValueError: If it is longer than 100 characters, has others than letters, digits and ``_ . -``, or does not
            start with a letter or digit.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}", name):
        raise ValueError(f"name is {name!r}: use at most 100 letters, digits, and _ . - (not as the first)")
    return name


def check_n(n: int | None, images: int, name: str) -> None:
    """Check that there are at least ``n`` test images.

    Raises:
        ValueError: If there are fewer and ``n`` is neither None nor the default.
    """
    if n is not None and n > images and n != USUAL_N:
        raise ValueError(f"n is {n}, but there are only {images} test images: set n of {name} to null for all")


def prepare_source(pl_module: ImageClassifier, source: nn.Module) -> None:
    """Move the source network of adversarial images to the module's device, in eval mode, and check its classes.

    Raises:
        ValueError: If it has another number of classes than the module's network.
    """
    source.to(pl_module.device).eval()
    shape = data_of(pl_module.trainer).image_shape
    check_classes(pl_module.network, source, torch.zeros(1, *shape, device=pl_module.device))


def choose(trainer: Trainer, n: int | None, subset: Choice, seed: int) -> Tensor:
    """Return the ascending positions in the test set of the images of an evaluation, (n,)."""
    data = data_of(trainer)
    n = data.size("test") if n is None else min(n, data.size("test"))
    n = min(n, 10) if trainer.fast_dev_run else n  # type: ignore[attr-defined]
    return data.choose("test", n, seed) if subset == "balanced" else torch.arange(n)


def _patient_group(trainer: Trainer) -> ProcessGroup | None:
    """Make a group of all ranks that waits for the slowest chunk, which may take longer than the usual half hour."""
    if trainer.world_size == 1:
        return None
    group = torch.distributed.new_group(backend="gloo", timeout=timedelta(days=30))
    assert isinstance(group, ProcessGroup)  # every rank is a member
    return group


def _gather(mine: dict[int, Tensor], group: ProcessGroup | None) -> dict[int, Tensor]:
    """Gather the chunks of all ranks on every rank, and destroy the group."""
    if group is None:
        return mine
    parts: list[Any] = [None] * group.size()
    torch.distributed.all_gather_object(parts, mine, group=group)
    torch.distributed.destroy_process_group(group)
    return {number: found for part in parts for number, found in part.items()}
