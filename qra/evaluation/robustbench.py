"""A result in the form of a RobustBench ``model_info`` file (Croce et al. 2021, arXiv 2010.09670)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qra.attacks.autoattack import AUTOATTACK
from qra.evaluation.doubt import doubt_of
from qra.evaluation.measured import Measured, PixelContract, ThreatModel, read_measured
from qra.evaluation.worst import robust_accuracies
from qra.types import Norm, format_pixels

EPS: Mapping[Norm, float] = {"linf": 8 / 255, "l2": 0.5}
"""Budgets of the RobustBench leaderboards for CIFAR-10."""
_LEADERBOARD = ThreatModel("linf", EPS["linf"])


def model_info(
    result: Mapping[str, Any], name: str, architecture: str | None, pixels: PixelContract = "float"
) -> dict[str, Any]:
    """Return the fields of a RobustBench ``model_info`` and, under ``qra``, those specific to a quantized network.

    As in RobustBench, accuracies are percentages as text. A field that was not measured, or that only the authors can
    fill in, is null. Only standard AutoAttack on float images fills ``autoattack_acc``; of several, the one with the
    leaderboard's budget is preferred, then the one on most examples.

    Args:
        result: Content of ``result.json``.
        name: Name of the network, such as that of the run.
        architecture: Class of the network, if known.
        pixels: Pixel type of the robust accuracy that is shown if there is no standard AutoAttack.
    """
    outcomes = [read_measured(key, summary) for key, summary in result["outcomes"].items()]
    autoattack = _autoattack(outcomes)
    bounds = _LEADERBOARD._replace(pixels=pixels) if autoattack is None else autoattack.threat_model
    clean = max((each for each in outcomes if each.role == "clean"), key=lambda each: each.accuracy.n, default=None)
    doubt = doubt_of(result)
    return {
        "link": None,
        "name": name,
        "authors": None,
        "additional_data": None,
        "number_forward_passes": 1,
        "dataset": "cifar10" if result["data"]["class"] == "CIFAR10DataModule" else result["data"]["class"],
        "venue": None,
        "architecture": architecture,
        "threat_model": {"linf": "Linf", "l2": "L2"}[bounds.norm],
        "eps": format_pixels(bounds.eps) if bounds.norm == "linf" else f"{bounds.eps:g}",
        "clean_acc": _percent(clean),
        "reported": None,
        "autoattack_acc": _percent(autoattack),
        "footnote": None,
        "unreliable": {"sound": False, "suspect": True, "not judged": None}[doubt.state],
        "qra": {
            "clean_n": None if clean is None else clean.accuracy.n,
            "autoattack_n": None if autoattack is None else autoattack.accuracy.n,
            "autoattack_interval95": None if autoattack is None else list(autoattack.accuracy.interval),
            "autoattack_mode": None if autoattack is None else autoattack.attack.get("mode"),
            "robust": _robust(outcomes, bounds),
            **_quantization(result, outcomes),
            "doubt": doubt.summary(),
            "checkpoint": result["checkpoint"],
            "data": result["data"],
        },
    }


def _autoattack(outcomes: Sequence[Measured]) -> Measured | None:
    """Return the AutoAttack outcome to report, or None if there is none."""
    found = [
        each
        for each in outcomes
        if each.role == "robust" and each.standard == AUTOATTACK and each.threat_model.pixels == "float"
    ]

    def rank(each: Measured) -> tuple[bool, int, str]:
        bounds = each.threat_model
        return abs(bounds.eps - EPS[bounds.norm]) < 1e-6, each.accuracy.n, each.name

    return max(found, key=rank, default=None)


def _percent(outcome: Measured | None) -> str | None:
    return None if outcome is None else f"{100 * outcome.accuracy.value:.2f}"


def _robust(outcomes: Sequence[Measured], bounds: ThreatModel) -> dict[str, Any] | None:
    """Return the worst case over all attacks of a threat model, which is the accuracy to rely on."""
    found = next((each for known, each in robust_accuracies(outcomes).items() if known.is_close(bounds)), None)
    if found is None:
        return None
    return {
        "accuracy": found.accuracy.value,
        "n": found.accuracy.n,
        "outcome": found.name,
        "attacks": list(found.members) or [found.name],
    }


def _quantization(result: Mapping[str, Any], outcomes: Sequence[Measured]) -> dict[str, Any]:
    scheme, cost = result.get("scheme"), result.get("cost", {})
    bits = (scheme or {}).get("init_args", {})
    return {
        "scheme": scheme,
        **{name: bits.get(name) for name in ("weight_bit_width", "act_bit_width", "first_last_bit_width")},
        **{name: cost.get(name) for name in ("size_in_bits", "bit_ops")},
        "gradient_modes": sorted({each.gradient for each in outcomes if each.gradient}),
    }
