"""Comparison of an engine with the program that it runs: differences in codes and decisions, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from qra import noise
from qra.attacks.pixels import LEVELS
from qra.evaluation.statistics import mcnemar, wilson_interval

Images = Literal["clean", "full-length", "early-stopped", "inside", "outside"]
"""Kinds of images on which decisions are compared.

``clean`` images; adversarial ones after all steps (``full-length``), and those at which the attack stopped
(``early-stopped``); and the nearest ones on both sides of a decision boundary of the program (``inside``, ``outside``).
"""
Verdict = Literal["faithful", "unfaithful", "masked"]

TOLERATED: Mapping[Images, int] = {"clean": 500, "full-length": 500, "early-stopped": 200}
"""Number of decisions of which one may differ on a faithful engine, by kind of images.

Sums in another order round differently in rare ties. Images at a boundary are ties by construction, so any number of
them may differ.
"""
MASKED = 0.002
"""Fraction of images broken by Square alone above which the program's gradients are considered misleading."""
ENOUGH_QUERIES = 1000
"""Number of queries of Square below which finding nothing is not conclusive."""
_LITTLE = 0.02  # an interval that ends above this includes a known-bad 4-bit engine
_LEVELS_MOVED = 16  # typical change of a pixel between two images


class Changes(NamedTuple):
    """Differences of another executor's decisions from those of the program, on some images.

    Attributes:
        n: Number of images.
        differ: Number of decisions for another class.
        lost: Number of images that only the program classifies correctly.
        gained: Number of images that only the other classifies correctly.
    """

    n: int
    differ: int
    lost: int
    gained: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson interval of the fraction of decisions that differ, at 95 %."""
        return wilson_interval(self.differ, self.n)

    @property
    def p(self) -> float:
        """Exact p-value of the hypothesis that both are equally accurate (McNemar)."""
        return mcnemar(self.lost, self.gained)

    def summary(self) -> dict[str, Any]:
        """Return the content for JSON."""
        interval = list(self.interval) if self.n else None
        return {**self._asdict(), "differ_interval95": interval, "mcnemar_p": self.p}

    def __str__(self) -> str:
        if not self.n:
            return "no images"
        low, high = (100 * bound for bound in self.interval)
        return f"{self.differ:,} of {self.n:,} decisions differ [{low:.1f}, {high:.1f} %] (-{self.lost}/+{self.gained})"


def total(parts: Iterable[Changes]) -> Changes:
    """Return the changes on all images of several parts."""
    return Changes(*map(sum, zip(*parts, strict=True)))


def changes(program: Tensor, other: Tensor, y: Tensor) -> Changes:
    """Compare decisions, image by image.

    Args:
        program: Classes that the program predicts, (n,).
        other: Classes that another executor predicts for the same images, (n,).
        y: Labels, (n,).
    """
    right, other_right = program == y, other == y
    lost, gained = int((right & ~other_right).sum()), int((other_right & ~right).sum())
    return Changes(len(y), int((program != other).sum()), lost, gained)


@dataclass
class CodeDifferences:
    """Differences between the integer codes of two executors in one layer, over any number of batches.

    Attributes:
        values: Number of codes.
        differ: Number of codes that differ.
        largest: Largest difference, in codes.
    """

    values: int = 0
    differ: int = 0
    largest: int = 0

    def add(self, ours: Tensor, theirs: Tensor) -> None:
        """Count the codes of one batch, which have equal shapes."""
        apart = (ours.to(torch.int64) - theirs.to(torch.int64)).abs()
        self.values += apart.numel()
        self.differ += int((apart > 0).sum())
        self.largest = max(self.largest, int(apart.max()) if apart.numel() else 0)

    def summary(self) -> dict[str, Any]:
        """Return the content for JSON."""
        share = self.differ / self.values if self.values else 0.0
        return {"codes": self.values, "differ": self.differ, "share": share, "largest": self.largest}


def add_codes(
    totals: dict[str, CodeDifferences], ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> dict[str, CodeDifferences]:
    """Count the codes of one batch in all layers that both executors have, in the order of the first."""
    for name, codes in ours.items():
        if name in theirs:
            totals.setdefault(name, CodeDifferences()).add(codes, theirs[name])
    return totals


def boundary(decide: Callable[[Tensor], Tensor], x: Tensor, x_adv: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest two byte images between a clean and an adversarial one with different decisions.

    Pixels change from one image to the other level by level, in an order drawn for each image. The step at which the
    decision changes from that of the clean image is found by bisection.

    Args:
        decide: Predicts the classes of images, (n, C, H, W) to (n,).
        x: Clean images, multiples of 1/255, (n, C, H, W).
        x_adv: Adversarial images of the same kind, with other decisions.
        indices: Positions of the images in their data set, which select the order, (n,).

    Returns:
        Images on the clean side and on the other side, both (n, C, H, W).
    """
    clean, moved = (x * LEVELS).round(), ((x_adv - x) * LEVELS).round()
    order = noise.uniform(tuple(x.shape[1:]), indices, 0, noise.Stream.BOUNDARY).to(x)
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
    """Findings of Square on an engine, among the images that nothing else broke.

    Attributes:
        n: Number of images of the whole evaluation.
        attacked: Number of images that were not broken before.
        broken: Number of those that Square broke.
        wrong_on_program: Number of the broken ones whose adversarial images the program also misclassifies.
        queries: Queries per image.
    """

    n: int
    attacked: int
    broken: int
    wrong_on_program: int
    queries: int

    @property
    def gain(self) -> float:
        """Robust accuracy lost to Square, as a fraction."""
        return self.broken / self.n if self.n else 0.0

    @property
    def words(self) -> str:
        """The findings in one line."""
        few = "" if self.queries >= ENOUGH_QUERIES else f"; {ENOUGH_QUERIES} queries would say whether that is all"
        fooled = f" ({self.wrong_on_program} of them fool the program too)" if self.broken else ""
        return (
            f"Square with {self.queries} queries broke {self.broken} of {self.attacked} images that were left{fooled}, "
            f"{100 * self.gain:.1f} points{few}"
        )

    def summary(self) -> dict[str, Any]:
        """Return the content for JSON."""
        return {**self._asdict(), "gain": self.gain}


class Judgement(NamedTuple):
    """The verdict on an engine, with reasons.

    Attributes:
        verdict: ``unfaithful`` if decisions differ beyond the tolerance, else ``masked`` if Square finds what the
            attack with gradients missed, else ``faithful``.
        reasons: The findings it is based on, as text.
    """

    verdict: Verdict
    reasons: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """Return the content for JSON."""
        return {"verdict": self.verdict, "reasons": list(self.reasons)}


def judge(decisions: Mapping[Images, Changes], square: SquareFinding | None) -> Judgement:
    """Judge an engine.

    Args:
        decisions: Decisions compared with those of the program, by kind of images.
        square: Findings of Square on the engine; None if it was not run.
    """
    wrong = [f"{kind}: {found}" for kind, found in decisions.items() if found.differ > _allowed(kind, found.n)]
    masked = square is not None and square.gain > MASKED
    reasons = wrong + ([square.words] if square is not None else [])
    if not wrong:
        whole = total(decisions[kind] for kind in TOLERATED)
        few = f", but {whole.n} decisions are too few to be sure" if whole.interval[1] > _LITTLE else ""
        reasons.insert(0, f"{whole}, within the tolerance{few}")
    return Judgement("unfaithful" if wrong else "masked" if masked else "faithful", tuple(reasons))


def _allowed(kind: Images, n: int) -> int:
    return max(1, n // TOLERATED[kind]) if kind in TOLERATED else n
