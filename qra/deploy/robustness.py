"""Robust accuracy as deployed: attacks on the program, replayed on an engine, and an attack on the engine itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qra.attacks import PGD, Square
from qra.attacks.pixels import LEVELS, OnBytes, on_bytes, to_bytes
from qra.attacks.state import length
from qra.deploy.parity import Changes, Images, SquareFinding, boundary, changes, total
from qra.evaluation.chunks import ChunkFiles
from qra.evaluation.protocol import Protocol
from qra.evaluation.robustness import Watch, attack_examples
from qra.files import read_npz
from qra.losses import prediction
from qra.types import Batch
from qra.writing import write_arrays

_SLACK = 1e-6  # tolerance of float32 distances


class Threat(NamedTuple):
    """The attacks of an evaluation.

    Attributes:
        white_box: Attack on the program, on byte images; it stops at each broken example.
        full_length: Attack on the program that runs all its steps.
        square: Attack on the engine.
    """

    white_box: Protocol
    full_length: PGD
    square: Square


def threat(white_box: Protocol, queries: int, steps: int = 20) -> Threat:
    """Return all attacks for the ball of a given attack.

    Args:
        white_box: Attack on the program, on byte images.
        queries: Queries of Square on the engine, per image.
        steps: Number of steps of the full-length attack, each of a quarter of the radius.
    """
    eps, norm = white_box.eps, white_box.attack.norm
    return Threat(white_box, PGD(eps, eps / 4, steps, norm=norm), on_bytes(Square(eps, norm, queries)))


@dataclass(frozen=True)
class Tried:
    """The images of one chunk on which decisions are compared, with the program's decisions.

    Attributes:
        batch: The clean images.
        images: Images by kind, multiples of 1/255, each (n, C, H, W); there are fewer at a boundary.
        rows: Rows of the batch that the images belong to, by kind.
        decisions: Classes that the program predicts, by kind.
    """

    batch: Batch
    images: Mapping[Images, Tensor]
    rows: Mapping[Images, Tensor]
    decisions: Mapping[Images, Tensor]

    def labels(self, kind: Images) -> Tensor:
        """Return the labels of the images of a kind."""
        return self.batch.y[self.rows[kind]]

    @cached_property
    def correct(self) -> Tensor:
        """Whether the program is correct on each example under all attacks with gradients, bool (n,)."""
        return self.correct_under(self.decisions)

    def correct_under(self, decisions: Mapping[Images, Tensor]) -> Tensor:
        """Return whether decisions are correct on all images of each example, bool (n,)."""
        wrong = torch.zeros(len(self.batch.y), dtype=torch.bool)
        for kind, decided in decisions.items():
            wrong[self.rows[kind][decided != self.labels(kind)]] = True
        return ~wrong


@torch.no_grad()
def decide(network: nn.Module, x: Tensor) -> Tensor:
    """Return the classes that a network predicts, (n,); -1 where it predicts none."""
    return prediction(network(x)) if len(x) else torch.empty(0, dtype=torch.int64)


def attack_program(program: nn.Module, what: Threat, batch: Batch, x_adv: Tensor) -> Tried:
    """Generate the images of a chunk on which engines are compared.

    Args:
        program: The differentiable twin, in eval mode.
        what: The attacks.
        batch: Clean images, labels and indices.
        x_adv: Images at which the attack stopped, from :func:`white_box_images`.
    """
    x, y, indices = batch
    full = what.full_length(OnBytes(program), x, y, index=indices)
    full = to_bytes(full, x, what.full_length.eps, what.full_length.norm)
    found: dict[Images, Tensor] = {"clean": x, "full-length": full, "early-stopped": x_adv}
    rows = {kind: torch.arange(len(y)) for kind in found}
    decisions = {kind: decide(program, images) for kind, images in found.items()}
    crossed = (decisions["clean"] != decisions["early-stopped"]).nonzero().squeeze(1)
    sides = boundary(lambda images: decide(program, images), x[crossed], x_adv[crossed], indices[crossed])
    kinds: tuple[Images, Images] = ("inside", "outside")
    for kind, images in zip(kinds, sides, strict=True):
        found[kind], rows[kind], decisions[kind] = images, crossed, decide(program, images)
    return Tried(batch, found, rows, decisions)


class ImageChunks(ChunkFiles):
    """Files with the attack that first broke each example of a chunk, and the images at which the attack stopped."""

    def images(self, number: int) -> Tensor | None:
        """Return the images of a completed chunk, uint8; None if they are missing."""
        if self.read(number) is None:
            return None
        try:
            found = read_npz(self._images(number), follow=False)["images"]
        except (OSError, ValueError, KeyError):
            return None
        fits = found.dtype == "uint8" and found.ndim == 4 and len(found) == len(self.chunks[number])
        return torch.from_numpy(found) if fits else None

    def keep(self, number: int, broken_by: Tensor, images: Tensor) -> None:
        """Store a chunk. The images, uint8, are written first, so that a completed chunk always has them."""
        write_arrays(self._images(number), {"images": images.numpy()}, compressed=True)
        self.write(number, broken_by)

    def _images(self, number: int) -> Path:
        return self.directory / f"images-{number:05d}.npz"


def white_box_images(
    program: nn.Module,
    protocol: Protocol,
    files: ImageChunks,
    batch: Batch,
    number: int,
    watch: Watch = lambda title, share, n_correct: None,
) -> Tensor:
    """Attack the program on a chunk, or read the results of an earlier run.

    Args:
        program: The differentiable twin, in eval mode.
        protocol: The attack, on byte images.
        files: Storage of the chunks.
        batch: Clean images, labels and indices.
        number: Number of the chunk.
        watch: Callback for progress.

    Returns:
        The images at which the attack stopped, multiples of 1/255. For an example that stayed correct, this is an image
        that the program classifies correctly.
    """
    kept = files.images(number)
    if kept is None or not _is_within(kept, batch.x, protocol):
        found = attack_examples(program, protocol.attack.in_chunk(number), batch, None, "bytes", watch)
        kept = (found.x_adv * LEVELS).round().to(torch.uint8).cpu()
        files.keep(number, found.first_broken_by.cpu(), kept)
    return kept.to(batch.x) / LEVELS


def _is_within(kept: Tensor, x: Tensor, protocol: Protocol) -> bool:
    """Whether stored images belong to a chunk and lie within the ball; an export may come from an untrusted source."""
    if kept.shape != x.shape:
        return False
    apart = length(kept.to(x) / LEVELS - x, protocol.attack.norm)
    return bool((apart <= protocol.eps + _SLACK).all())


class Replayed(NamedTuple):
    """Results of one engine on the images of a chunk.

    Attributes:
        changes: Decisions compared with those of the program, by kind of images.
        decisions: Classes that the engine predicts, by kind.
        clean: Whether it is correct on each clean image, bool (n,).
        correct: Whether program and engine are correct on all images of an example, bool (n,).
        square: Findings of Square on it; None if it was not run.
    """

    changes: dict[Images, Changes]
    decisions: dict[Images, Tensor]
    clean: Tensor
    correct: Tensor
    square: SquareFinding | None


def replay(engine: nn.Module, program: nn.Module, tried: Tried, square: Square | None) -> Replayed:
    """Let an engine classify all images of a chunk, then attack it where it and the program are correct on all of them.

    Args:
        engine: The engine, as a network.
        program: The differentiable twin, in eval mode.
        tried: The images, with the program's decisions.
        square: Attack on the engine, for this chunk; None for no attack.
    """
    decisions = {kind: decide(engine, images) for kind, images in tried.images.items()}
    compared = {kind: changes(tried.decisions[kind], found, tried.labels(kind)) for kind, found in decisions.items()}
    correct = tried.correct & tried.correct_under(decisions)
    found = None
    if square is not None:
        left = correct.nonzero().squeeze(1)
        batch = Batch(*(part[left] for part in tried.batch))
        attacked = attack_examples(engine, square, batch, None, "bytes") if len(left) else None
        broken = torch.empty(0, dtype=torch.int64) if attacked is None else (~attacked.correct).nonzero().squeeze(1)
        fooled = 0 if attacked is None else int((decide(program, attacked.x_adv[broken]) != batch.y[broken]).sum())
        correct = correct.index_fill(0, left[broken], False)
        found = SquareFinding(len(correct), len(left), len(broken), fooled, square.queries)
    return Replayed(compared, decisions, decisions["clean"] == tried.batch.y, correct, found)


def together(parts: Sequence[Replayed]) -> Replayed:
    """Combine the results of one engine on all chunks."""
    kinds = parts[0].changes.keys()
    counts = {kind: total(part.changes[kind] for part in parts) for kind in kinds}
    decisions = {kind: torch.cat([part.decisions[kind] for part in parts]) for kind in kinds}
    clean, correct = (torch.cat([getattr(part, name) for part in parts]) for name in ("clean", "correct"))
    squares = [part.square for part in parts if part.square is not None]
    if not squares:
        return Replayed(counts, decisions, clean, correct, None)
    n, attacked, broken, fooled, _ = map(sum, zip(*squares, strict=True))
    found = SquareFinding(n, attacked, broken, fooled, squares[0].queries)
    return Replayed(counts, decisions, clean, correct, found)
