"""Cheap signs of gradient masking, computed in every test; they can make a network suspect, but never sound."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qra.evaluation.indicators import Indicator, share, share_of
from qra.evaluation.masking import zero_gradients
from qra.evaluation.measured import Measured
from qra.evaluation.outcome import Outcome
from qra.losses import prediction
from qra.precision import float32
from qra.types import Batch, format_pixels

LARGE = 32 / 255
"""L-inf budget, in pixel units, under which no natural image should survive."""
EXAMPLES = 250
"""Maximum number of examples whose gradients are examined."""
_TWICE = 16
"""Maximum number of images whose logits are compared between two passes."""
_CHANGE = 1e-3  # of the largest logit: passes of equally many images differ only in a few roundings
_GAP = 16.0  # 1 - exp(-17) rounds to 1 in float32, so that the label's contribution to the gradient is lost


@dataclass(frozen=True)
class Signs:
    """The signs of gradient masking found in a network.

    Args:
        indicators: All signs that were examined.
        n: Number of examples whose gradients were examined.
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
        """All signs in one line."""
        if self.reasons:
            return f"gradients: SUSPECT, robust accuracies may be too high: {'; '.join(self.reasons)}"
        values = [f"{i.name.replace('_', ' ')} {i.value:.1%}" for i in self.indicators if i.value is not None]
        if not values:
            return f"gradients: not checked, because none of {self.n} examples is classified correctly"
        found = f"a quick check finds no sign of masking on {self.n} examples ({', '.join(values)})"
        return f"gradients: {found}; callback/masking checks thoroughly"

    def summary(self) -> dict[str, Any]:
        """Return the signs as a dictionary, ready for JSON."""
        return {
            "verdict": self.verdict,
            "reasons": self.reasons,
            "n": self.n,
            "indicators": [dataclasses.asdict(indicator) for indicator in self.indicators],
        }


def find_signs(network: nn.Module, search: nn.Module, batch: Batch, outcomes: Iterable[Outcome] = ()) -> Signs:
    """Look for signs of gradient masking.

    The cost is two forward passes and one backward pass of at most 250 images, and three forward passes of at most 16.

    Args:
        network: The network, in eval mode.
        search: The attack-time copy that attacks differentiate.
        batch: Float images in [0, 1], labels and data set indices; only the first 250 are used.
        outcomes: Outcomes of attacks, of which L-inf ones with a budget of at least 32/255 are used.
    """
    x, y, _ = (part[:EXAMPLES] for part in batch)
    with float32(x.device):
        with torch.no_grad():
            logits = network(x)
            changes = _changes(network, x[:_TWICE]).cpu()
        zero = zero_gradients(search, x, y).cpu()
    correct = (prediction(logits) == y).cpu()
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
    return Signs((*indicators, *left_at_large_eps(each.measured for each in outcomes)), len(x))


def _changes(network: nn.Module, x: Tensor) -> Tensor:
    """Return whether the logits of images change at other positions, beside only half of the images: bool (N,)."""
    logits, n = network(x), len(x)
    places, half = torch.arange(n, device=x.device), max(n // 2, 1)
    changed = torch.zeros_like(places, dtype=torch.bool)
    for order in (places % half, n - 1 - places % max(n - half, 1)):  # all passes have equally many images
        apart = (network(x[order]) - logits[order]).abs().amax(1)
        changed[order[apart > _CHANGE * logits[order].abs().amax(1)]] = True
    return changed


def left_at_large_eps(outcomes: Iterable[Measured]) -> list[Indicator]:
    """Return the lowest robust accuracy at budgets that change images beyond recognition, as a sign, if any.

    Args:
        outcomes: Outcomes of attacks, of which L-inf ones on the network itself with a budget of at least 32/255 count.
    """
    large = [
        each
        for each in outcomes
        if each.attacks
        and not each.source
        and each.threat_model.norm == "linf"
        and each.threat_model.eps > LARGE - 1e-6
    ]
    if not large:
        return []
    least = min(large, key=lambda outcome: outcome.accuracy.value)
    eps, n = format_pixels(least.threat_model.eps), least.accuracy.n
    meaning = f"robust accuracy at {eps}; should be about 0 on natural images"
    count = round(least.accuracy.value * n)
    return [share("left_at_large_eps", count, n, 0.1, meaning, f"too much is left at {eps}")]
