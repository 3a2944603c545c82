"""Cheap signs of hidden gradients, which every test looks at: they can make a network suspect, and never sound."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qra.attacks import PGD
from qra.evaluation.indicators import Indicator, share_of
from qra.evaluation.outcome import Outcome
from qra.losses import prediction
from qra.precision import float32
from qra.types import Batch, format_pixels

LARGE = 32 / 255
"""A budget, in pixel units, L-inf, under which nothing should be left of natural images."""
EXAMPLES = 250
"""Most examples that gradients are looked at of."""
_TWICE = 16
"""Most images that logits are compared of, between two passes."""
_CHANGE = 1e-3  # of the largest logit: with the same number of images a pass gives the same, but for a few roundings
_GAP = 16.0  # float32 has no 1 - exp(-17) below 1: what the label's logit contributes to the gradient is lost


@dataclass(frozen=True)
class Signs:
    """What was found.

    Args:
        indicators: All signs that were looked for.
        n: Number of examples whose gradients were looked at.
    """

    indicators: tuple[Indicator, ...]
    n: int

    @property
    def reasons(self) -> list[str]:
        """Why the network is suspect, in words."""
        return [indicator.reason for indicator in self.indicators if indicator.suspect]

    @property
    def verdict(self) -> str:
        """``suspect`` or ``not judged``."""
        return "suspect" if self.reasons else "not judged"

    @property
    def line(self) -> str:
        """The whole in one line."""
        if self.reasons:
            return f"gradients: SUSPECT, robust accuracies may be too high: {'; '.join(self.reasons)}"
        values = [f"{i.name.replace('_', ' ')} {i.value:.1%}" for i in self.indicators if i.value is not None]
        if not values:
            return f"gradients: not looked at, for none of {self.n} examples is classified correctly"
        found = f"no sign of hidden ones on {self.n} examples ({', '.join(values)})"
        return f"gradients: {found}; the masking check looks closer"

    def summary(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "verdict": self.verdict,
            "reasons": self.reasons,
            "n": self.n,
            "indicators": [dataclasses.asdict(indicator) for indicator in self.indicators],
        }


def look(network: nn.Module, search: nn.Module, batch: Batch, outcomes: Iterable[Outcome] = ()) -> Signs:
    """Look for signs: one forward and one backward pass, and three forward passes of a few images.

    Args:
        network: The network, in eval mode.
        search: What attacks differentiate.
        batch: Float images in [0, 1], labels and data set indices; the first ones are looked at.
        outcomes: What attacks left; those of L-inf at the largest budgets count.
    """
    x, y, _ = (part[:EXAMPLES] for part in batch)
    with float32(x.device):
        with torch.no_grad():
            logits = network(x)
            changes = _changes(network, x[:_TWICE]).cpu()
        with torch.inference_mode(False), torch.enable_grad():
            gradient, _ = PGD().gradient(search, x.clone(), y.clone())
    correct = (prediction(logits) == y).cpu()
    size = gradient.flatten(1).abs().sum(1)
    zero = ((size == 0) | ~size.isfinite()).cpu()
    top = logits.topk(2).values
    saturated = (top[:, 0] - top[:, 1] > _GAP).cpu()
    indicators = [
        share_of(
            "zero_gradients",
            zero,
            correct,
            0.01,
            "share of correct examples whose input gradient of the cross-entropy is zero or not finite; should be 0",
            "the input gradient of the cross-entropy is zero",
        ),
        share_of(
            "changing_logits",
            changes,
            torch.ones_like(changes),
            0.1,
            "share of images whose logits change with the images beside them, or from pass to pass; should be 0",
            "logits of an image change with the images beside it, or from pass to pass",
        ),
        share_of(
            "saturated_logits",
            saturated,
            correct,
            0.5,
            f"share of correct examples whose two largest logits are more than {_GAP:g} apart, where float32 loses "
            "most of the gradient of the cross-entropy; should be small",
            f"logits are saturated, the two largest more than {_GAP:g} apart",
        ),
    ]
    return Signs((*indicators, *_large_budget(outcomes)), len(x))


def _changes(network: nn.Module, x: Tensor) -> Tensor:
    """Whether logits of images change where they stand in other places, among half of the images: bool (N,)."""
    logits, n = network(x), len(x)
    places, half = torch.arange(n, device=x.device), max(n // 2, 1)
    changed = torch.zeros_like(places, dtype=torch.bool)
    for order in (places % half, n - 1 - places % max(n - half, 1)):  # all passes are of as many images
        apart = (network(x[order]) - logits[order]).abs().amax(1)
        changed[order[apart > _CHANGE * logits[order].abs().amax(1)]] = True
    return changed


def _large_budget(outcomes: Iterable[Outcome]) -> list[Indicator]:
    """What is left where images change beyond recognition, by the attack that leaves least."""
    large = [o for o in outcomes if o.role == "robust" and o.norm == "linf" and o.eps > LARGE - 1e-6 and not o.source]
    if not large:
        return []
    least = min(large, key=lambda outcome: outcome.accuracy)
    eps = format_pixels(least.eps)
    meaning = f"robust accuracy at {eps}; should be about 0 on natural images"
    everything: Tensor = torch.ones_like(least.correct)
    return [share_of("left_at_large_eps", least.correct, everything, 0.1, meaning, f"too much is left at {eps}")]
