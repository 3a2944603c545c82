"""Indicators of gradient masking, under which a network's robust accuracy cannot be trusted.

An indicator counts only if it exceeds its threshold by more than chance explains, so that a small number of examples
raises no false alarm.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qra.evaluation.masking import MaskingSettings
from qra.evaluation.statistics import mcnemar, wilson_interval
from qra.types import format_pixels

CONFIDENCE = 0.99
"""Coverage of the intervals that are compared with thresholds."""
ORIGIN = (
    "what is looked for follows Athalye et al. 2018, Carlini et al. 2019 and Pintor et al. 2022; how each indicator is "
    "measured, its name and its threshold are qra's own"
)
"""Origin of the indicators, needed to compare them with those of the literature."""
_STRONGER = {
    "more_steps": "more steps", "more_restarts": "more starts", "apgd": "APGD", "scaled_logits": "scaled logits",
    "other_loss": "another loss", "square": "Square", "unrounded": "the unrounded network", "polish": "Polish",
    "transfer": "transfer",
}  # fmt: skip
"""Indicators whose value is an overstatement of robust accuracy, in words."""


def noticed_from(threshold: float, n: int) -> float:
    """Return the smallest share of examples whose confidence interval lies entirely above a threshold.

    Args:
        threshold: Share in [0, 1).
        n: Number of examples, at least 1.

    Returns:
        A share in (0, 1]; 1 also if not even all examples would suffice.
    """
    low, high = 0, n  # the lower end of the interval rises with the count
    while low < high:
        count = (low + high) // 2
        low, high = (low, count) if wilson_interval(count, n, CONFIDENCE)[0] > threshold else (count + 1, high)
    return low / n


@dataclass(frozen=True)
class Indicator:
    """One indicator of gradient masking.

    Args:
        name: Key in files.
        value: Measured value; None if it was not measured.
        threshold: Threshold beyond which the network is suspect; None if the value is only reported.
        suspect: Whether the value is beyond the threshold by more than chance explains.
        meaning: Meaning of the value, and on which side of the threshold it should lie.
        reason: Conclusion about a network beyond the threshold, in words.
    """

    name: str
    value: float | None
    threshold: float | None
    suspect: bool
    meaning: str
    reason: str


@dataclass(frozen=True)
class MaskingReport:
    """All indicators of a network.

    Args:
        indicators: The indicators.
        n: Number of examples.
        losses: Mean cross-entropy, in nats, of the correctly classified examples at the start and after each step of
            PGD.
    """

    indicators: tuple[Indicator, ...]
    n: int
    losses: tuple[float, ...]

    @property
    def reasons(self) -> list[str]:
        """Why the network is suspect, in words."""
        return [indicator.reason for indicator in self.indicators if indicator.suspect]

    @property
    def verdict(self) -> str:
        """``sound`` or ``suspect``."""
        return "suspect" if self.reasons else "sound"

    @property
    def limits(self) -> dict[str, float]:
        """Smallest overstatement of robust accuracy that each stronger attack can reveal, as a share of examples."""
        shown = [each for each in self.indicators if each.name in _STRONGER and each.value is not None]
        return {_STRONGER[each.name]: noticed_from(each.threshold or 0.0, self.n) for each in shown}

    @property
    def detection_limit(self) -> float | None:
        """Smallest overstatement that every attack in :attr:`limits` can reveal; None if :attr:`limits` is empty."""
        return max(self.limits.values(), default=None)

    def summary(self) -> dict[str, Any]:
        """Return the report as a dictionary, ready for JSON."""
        return {
            "verdict": self.verdict,
            "reasons": self.reasons,
            "n": self.n,
            "detection_limit": self.detection_limit,
            "noticed_from": self.limits,
            "about": ORIGIN,
            "indicators": [dataclasses.asdict(indicator) for indicator in self.indicators],
            "losses": list(self.losses),
        }


def judge(found: Mapping[str, Tensor], settings: MaskingSettings, no_unrounded: str = "") -> MaskingReport:
    """Compute the indicators from the measurements on all examples.

    Args:
        found: Result of :func:`qra.evaluation.masking.measure`, on the CPU.
        settings: Settings of the measurements.
        no_unrounded: Why nothing was tried on the unrounded network; empty if it was.
    """
    correct = found["correct"]
    curve = found["losses"][correct].double().mean(0) if correct.any() else found["losses"].new_zeros(1)
    indicators = (*_about_gradients(found), *_about_optimization(found), *_about_budgets(found, settings))
    strength = _about_strength(found, settings, no_unrounded)
    return MaskingReport((*indicators, *strength), len(correct), tuple(curve.tolist()))


def share_of(
    name: str, events: Tensor, among: Tensor, threshold: float | None, meaning: str, reason: str, few: bool = False
) -> Indicator:
    """Return an indicator that is a share of examples, suspect above the threshold, or below it if ``few``."""
    return share(name, int((events & among).sum()), int(among.sum()), threshold, meaning, reason, few)


def share(
    name: str, count: int, n: int, threshold: float | None, meaning: str, reason: str, few: bool = False
) -> Indicator:
    """Return the indicator of :func:`share_of` from the number of events and that of examples."""
    if n == 0:
        return Indicator(name, None, threshold, False, meaning, reason)
    low, high = wilson_interval(count, n, CONFIDENCE)
    beyond = threshold is not None and (high < threshold if few else low > threshold)
    return Indicator(name, count / n, threshold, beyond, meaning, f"{reason} ({count} of {n} examples)")


def _mean(name: str, values: Tensor, threshold: float, meaning: str, reason: str) -> Indicator:
    """Return an indicator that is a mean over examples, suspect above the threshold for at least 10 examples."""
    if len(values) == 0:
        return Indicator(name, None, threshold, False, meaning, reason)
    values = values.double()
    error = 2.6 * float(values.std(correction=0)) / math.sqrt(len(values))
    mean = float(values.mean())
    return Indicator(name, mean, threshold, len(values) >= 10 and mean - error > threshold, meaning, reason)


def _about_gradients(found: Mapping[str, Tensor]) -> list[Indicator]:
    correct = found["correct"]
    spread = float(found["random"].max())
    change, margin = (float(found[name][correct].sum()) for name in ("margin_change", "margin"))
    unstable = change / margin if margin > 0 else None
    other = "DLR loss" if int(found["classes"][0]) > 2 else "margin"
    return [
        Indicator(
            "randomness",
            spread,
            1e-4,
            not spread <= 1e-4,
            "largest relative difference between logits of the same image; should be 0",
            "the forward pass is random: an attack would have to average over it",
        ),
        share_of(
            "zero_gradients_cross_entropy",
            found["zero_cross_entropy"],
            correct,
            0.01,
            "share of correct examples whose input gradient of the cross-entropy is zero; should be 0",
            "the input gradient of the cross-entropy is zero: logits are saturated, or rounding is not differentiated "
            "straight through",
        ),
        share_of(
            "zero_gradients_margin",
            found["zero_other_loss"],
            correct,
            0.01,
            f"share of correct examples whose input gradient of the {other} is zero; should be 0",
            f"the input gradient of the {other} is zero: something between the image and the logits has no slope",
        ),
        Indicator(
            "margin_change_under_noise",
            unstable,
            0.3,  # rounding activations to 4 bits by itself gives about 0.07
            unstable is not None and not unstable <= 0.3,
            "mean change of the margin under noise of 0.001, relative to the mean margin; should be small",
            "predictions are unstable: noise far below one pixel level changes the margin by a third",
        ),
    ]


def _about_optimization(found: Mapping[str, Tensor]) -> list[Indicator]:
    correct, curves = found["correct"], found["losses"].double()
    best = curves.cummax(1).values
    gain = best[:, -1] - best[:, 0]
    half = best.shape[1] // 2
    failed = correct & ~found["fooled_ever"] & (gain > 0)
    late = (best[:, -1] - best[:, half])[failed] / gain[failed]
    straight = _straightness(best[failed])
    return [
        share_of(
            "loss_rises",
            curves[:, -1] > curves[:, 0],
            correct,
            0.9,
            "share of correct examples whose loss is higher after PGD than at its start; should be nearly all",
            "PGD does not raise the loss: the gradient does not point to where the loss grows",
            few=True,
        ),
        _mean(
            "late_gain",
            late,
            0.3,
            "share of the gain in loss that the second half of the steps brings, where PGD fails; should be small",
            "PGD has not converged: the loss still grows in its last steps, so take more of them",
        ),
        _mean(
            "straight_loss_curve",
            straight,
            0.95,
            "|cos| of the angle at the bend of the loss curve, where PGD fails: 1 is a straight line; should be lower",
            "the loss curve has no bend: PGD stops while it still climbs",
        ),
        share_of(
            "earlier_success",
            found["fooled_ever"] & ~found["fooled_at_last"],
            correct,
            None,
            "share of correct examples that an earlier iterate broke and the last did not; counted as broken",
            "",
        ),
        share_of(
            "breaks_the_copy_alone",
            found["only_the_copy"],
            correct,
            0.05,
            "share of correct examples that PGD breaks on the copy it attacks and not on the network; should be small",
            "what breaks the attacked copy does not break the network: they compute different things",
        ),
    ]


def _straightness(curves: Tensor) -> Tensor:
    """Return ``|cos|`` of the angle at a rising curve's farthest point above its chord, (N, steps + 1) to (N,)."""
    if len(curves) == 0:
        return curves.new_zeros(0)
    start, end = curves[:, :1], curves[:, -1:]
    heights = (curves - start) / (end - start)
    along = torch.linspace(0, 1, curves.shape[1], dtype=curves.dtype)
    bend = (heights - along).argmax(1)
    a, b = along[bend], heights.gather(1, bend[:, None])[:, 0]
    to_start, to_end = torch.stack([-a, -b], 1), torch.stack([1 - a, 1 - b], 1)
    lengths = to_start.norm(dim=1) * to_end.norm(dim=1)
    cosine = (to_start * to_end).sum(1) / lengths.clamp_min(torch.finfo(curves.dtype).tiny)
    return torch.where(lengths > 0, cosine.abs(), 1.0)  # a straight line without a bend


def _about_budgets(found: Mapping[str, Tensor], settings: MaskingSettings) -> list[Indicator]:
    correct = torch.ones_like(found["correct"])
    rises = []
    for small, large in (("pgd_small", "pgd"), ("pgd", "pgd_large")):
        lost, gained = int((found[small] & ~found[large]).sum()), int((found[large] & ~found[small]).sum())
        rises.append(
            (gained - lost) / len(correct) if gained > lost and mcnemar(lost, gained) < 1 - CONFIDENCE else 0.0
        )
    large_eps = format_pixels(settings.large_eps)
    return [
        Indicator(
            "rise_with_eps",
            max(rises),
            0.0,
            max(rises) > 0,
            "rise of robust accuracy with a larger budget, beyond chance; should be 0",
            "a larger budget breaks fewer examples: the attack fails to find its way",
        ),
        share_of(
            "large_budget",
            found["pgd_large"],
            correct,
            0.1,
            f"robust accuracy at {large_eps}; should be about 0 on natural images",
            f"too much is left at {large_eps}, where images change beyond recognition",
        ),
        share_of(
            "unbounded",
            found["unbounded"],
            correct,
            0.01,
            "robust accuracy when any image is allowed; should be 0",
            "an attack without bound fails, though any image is allowed: it finds no way to other classes",
        ),
    ]


def _about_strength(found: Mapping[str, Tensor], settings: MaskingSettings, no_unrounded: str) -> list[Indicator]:
    everything = torch.ones_like(found["correct"])

    def broken(name: str, before: str, after: str, threshold: float, how: str, why_not: str = "") -> Indicator:
        meaning = f"share of examples that {how} breaks in addition; should be small"
        reason = f"{how} breaks examples that the attack did not"
        if after not in found:
            return Indicator(name, None, threshold, False, f"not tried: {why_not}" if why_not else meaning, reason)
        return share_of(name, found[before] & ~found[after], everything, threshold, meaning, reason)

    white = "beyond white-box attacks"
    queries = f"{settings.queries} queries"
    free = f"APGD on the unrounded network, {white},"
    return [
        broken("more_steps", "pgd", "more_steps", 0.005, f"PGD with {5 * settings.steps} steps"),
        broken("more_restarts", "pgd", "more_restarts", 0.005, f"PGD with {settings.restarts} more starts"),
        broken("apgd", "pgd", "apgd", 0.005, f"APGD with {2 * settings.steps} steps"),
        broken("scaled_logits", "pgd", "scaled_logits", 0.005, "PGD on logits that are scaled down"),
        broken("other_loss", "pgd", "other_loss", 0.05, "PGD on the margin instead of the cross-entropy"),
        broken("square", "white_box", "square", 0.002, f"Square ({queries}, no gradients), {white},"),
        broken("unrounded", "white_box", "unrounded", 0.005, free, no_unrounded),
        broken("polish", "white_box", "polish", 0.005, f"Polish ({queries}), {white},"),
        broken("transfer", "white_box", "transfer", 0.002, f"transfer from the surrogate, {white},"),
    ]
