"""Whether an engine decides as the program does that it runs: differences in codes and decisions, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from qra import noise
from qra.attacks.pixels import LEVELS
from qra.evaluation.statistics import mcnemar, wilson_interval

Images = Literal["clean", "full-length", "early-stopped", "inside", "outside"]
"""Kinds of images that decisions are compared on: clean ones; adversarial ones of all steps, and those at which the
attack stopped; and the nearest ones on both sides of a boundary between two decisions of the program."""
Verdict = Literal["faithful", "unfaithful", "masked"]

TOLERATED: Mapping[Images, int] = {"clean": 500, "full-length": 500, "early-stopped": 200}
"""Decisions of which one may differ at a faithful engine: sums in another order round otherwise in rare ties. Images at
a boundary are ties by their making, so that no number of them is too many."""
MASKED = 0.002
"""Share of images beyond which what Square alone finds says that gradients of the program mislead."""
ENOUGH_QUERIES = 1000
"""Queries of Square below which its finding nothing says nothing."""
_LITTLE = 0.02  # of the end of an interval, beyond which a known-bad engine of 4 bits would lie
_LEVELS_MOVED = 16  # of a pixel between two images, as a rule


class Changes(NamedTuple):
    """What another executor makes of the decisions of the program, on some images.

    Attributes:
        n: Number of images.
        differ: Number of decisions that are other classes.
        lost: Images that only the program classifies correctly.
        gained: Images that only the other classifies correctly.
    """

    n: int
    differ: int
    lost: int
    gained: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson interval of the share of decisions that differ, at 95 %."""
        return wilson_interval(self.differ, self.n)

    @property
    def p(self) -> float:
        """Exact p-value of both being equally good (McNemar)."""
        return mcnemar(self.lost, self.gained)

    def summary(self) -> dict[str, Any]:
        """Ready for JSON."""
        interval = list(self.interval) if self.n else None
        return {**self._asdict(), "differ_interval95": interval, "mcnemar_p": self.p}

    def __str__(self) -> str:
        if not self.n:
            return "no images"
        low, high = (100 * bound for bound in self.interval)
        return f"{self.differ:,} of {self.n:,} decisions differ [{low:.1f}, {high:.1f} %] (-{self.lost}/+{self.gained})"


def changes(program: Tensor, other: Tensor, y: Tensor) -> Changes:
    """Compare decisions, image by image.

    Args:
        program: Classes that the program decides for, (n,).
        other: Classes that another executor decides for on the same images, (n,).
        y: Labels, (n,).
    """
    right, other_right = program == y, other == y
    lost, gained = int((right & ~other_right).sum()), int((other_right & ~right).sum())
    return Changes(len(y), int((program != other).sum()), lost, gained)


@dataclass
class CodeDifferences:
    """How far the integer codes of two executors are apart in one layer, over any number of batches.

    Attributes:
        values: Number of codes.
        differ: Number of those that differ.
        largest: Largest difference, in codes.
    """

    values: int = 0
    differ: int = 0
    largest: int = 0

    def add(self, ours: Tensor, theirs: Tensor) -> None:
        """Count the codes of one batch, of one shape."""
        apart = (ours.to(torch.int64) - theirs.to(torch.int64)).abs()
        self.values += apart.numel()
        self.differ += int((apart > 0).sum())
        self.largest = max(self.largest, int(apart.max()) if apart.numel() else 0)

    def summary(self) -> dict[str, Any]:
        """Ready for JSON."""
        share = self.differ / self.values if self.values else 0.0
        return {"codes": self.values, "differ": self.differ, "share": share, "largest": self.largest}


def add_codes(
    totals: dict[str, CodeDifferences], ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> dict[str, CodeDifferences]:
    """Count the codes of one batch of all layers that both know, in the order of the first.

    Args:
        totals: Differences so far, by layer, which is changed and returned.
        ours: Codes of one executor by layer.
        theirs: Codes of another.
    """
    for name, codes in ours.items():
        if name in theirs:
            totals.setdefault(name, CodeDifferences()).add(codes, theirs[name])
    return totals


def boundary(
    decide: Callable[[Tensor], Tensor], x: Tensor, x_adv: Tensor, indices: Tensor, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The nearest two images of bytes between a clean and an adversarial one that are decided for otherwise.

    Pixels go over from the one to the other level by level, in an order that is drawn for each image, and the step with
    which the decision leaves that of the clean image is found by halving.

    Args:
        decide: Classes of images, (n, C, H, W) to (n,).
        x: Clean images, multiples of 1/255, (n, C, H, W).
        x_adv: Adversarial images of the same kind, for which the decision is another.
        indices: Positions of the images in their data set, which choose the order, (n,).
        seed: Chooses the order too.

    Returns:
        Images on the clean side, and on the other, both (n, C, H, W).
    """
    clean, moved = (x * LEVELS).round(), ((x_adv - x) * LEVELS).round()
    order = noise.uniform(tuple(x.shape[1:]), indices, seed, noise.Stream.BOUNDARY).to(x)
    ones = (-1, *[1] * (x.ndim - 1))
    inside, outside = torch.zeros(len(x), dtype=torch.float64), torch.ones(len(x), dtype=torch.float64)

    def image(share: Tensor) -> Tensor:
        step = (share.to(x).view(ones) * moved.abs() + order).floor().minimum(moved.abs())
        return (clean + moved.sign() * step) / LEVELS

    usual = decide(x)
    for _ in range((x.shape[1:].numel() * _LEVELS_MOVED).bit_length() + 1):
        middle = (inside + outside) / 2
        same = (decide(image(middle)) == usual).cpu()
        inside, outside = torch.where(same, middle, inside), torch.where(same, outside, middle)
    return image(inside), image(outside)


class SquareFinding(NamedTuple):
    """What Square found on an engine, of images that all else left correct.

    Attributes:
        n: Number of images of the whole evaluation.
        attacked: Number of images that were left.
        broken: Number of those that Square broke.
        wrong_on_program: Number of the broken ones whose images the program gets wrong too.
        queries: Queries for each image.
    """

    n: int
    attacked: int
    broken: int
    wrong_on_program: int
    queries: int

    @property
    def gain(self) -> float:
        """Robust accuracy that Square takes, as a fraction."""
        return self.broken / self.n if self.n else 0.0

    @property
    def words(self) -> str:
        """In one line."""
        few = "" if self.queries >= ENOUGH_QUERIES else f"; {ENOUGH_QUERIES} queries would say whether that is all"
        fooled = f" ({self.wrong_on_program} of them fool the program too)" if self.broken else ""
        return (
            f"Square with {self.queries} queries broke {self.broken} of {self.attacked} images that were left{fooled}, "
            f"{100 * self.gain:.1f} points{few}"
        )

    def summary(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**self._asdict(), "gain": self.gain}


class Judgement(NamedTuple):
    """The verdict on an engine, and why.

    Attributes:
        verdict: The verdict in a word: ``unfaithful`` where decisions differ, else ``masked`` where Square finds what
            the attack with gradients missed.
        reasons: What it rests on, in words.
    """

    verdict: Verdict
    reasons: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"verdict": self.verdict, "reasons": list(self.reasons)}


def judge(decisions: Mapping[Images, Changes], square: SquareFinding | None) -> Judgement:
    """Judge an engine.

    Args:
        decisions: Decisions compared with those of the program, by kind of images.
        square: What Square found on the engine; None if it was not run.
    """
    wrong = [f"{kind}: {found}" for kind, found in decisions.items() if found.differ > _allowed(kind, found.n)]
    masked = square is not None and square.gain > MASKED
    reasons = wrong + ([square.words] if square is not None else [])
    if not wrong:
        whole = Changes(*map(sum, zip(*(decisions[kind] for kind in TOLERATED), strict=True)))
        few = f", but {whole.n} say little" if whole.interval[1] > _LITTLE else ""
        reasons.insert(0, f"{whole}, within the tolerance{few}")
    return Judgement("unfaithful" if wrong else "masked" if masked else "faithful", tuple(reasons))


def _allowed(kind: Images, n: int) -> int:
    return max(1, n // TOLERATED[kind]) if kind in TOLERATED else n
