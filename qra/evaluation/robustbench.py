"""A result in the form of a RobustBench ``model_info`` file (Croce et al. 2021, arXiv 2010.09670)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qra.types import format_pixels

EPS = {"linf": 8 / 255, "l2": 0.5}
"""Budgets of the RobustBench leaderboards for CIFAR-10."""


def model_info(result: Mapping[str, Any], name: str, architecture: str | None) -> dict[str, Any]:
    """The fields of RobustBench and, under ``qra``, what belongs to a quantized network.

    Accuracies are in percent, as text, as there; what was not measured, or only people know, is null. Of several
    AutoAttack outcomes the one with the leaderboard's budget counts, else the first.

    Args:
        result: Content of ``result.json``.
        name: Of the network, such as that of the run.
        architecture: Of the network, if it is known.
    """
    outcomes = result["outcomes"]
    autoattack_name, norm, eps = _autoattack(outcomes)
    autoattack = outcomes.get(autoattack_name)
    masking = result.get("masking")
    return {
        "link": None,
        "name": name,
        "authors": None,
        "additional_data": None,
        "number_forward_passes": 1,
        "dataset": "cifar10" if result["data"]["class"] == "CIFAR10DataModule" else result["data"]["class"],
        "venue": None,
        "architecture": architecture,
        "threat_model": {"linf": "Linf", "l2": "L2"}[norm],
        "eps": format_pixels(eps) if norm == "linf" else f"{eps:g}",
        "clean_acc": _percent(outcomes.get("clean")),
        "reported": None,
        "autoattack_acc": _percent(autoattack),
        "footnote": None,
        "unreliable": None if masking is None else masking["verdict"] == "suspect",
        "qra": {
            "clean_n": outcomes["clean"]["n"] if "clean" in outcomes else None,
            "autoattack_n": None if autoattack is None else autoattack["n"],
            "autoattack_interval95": None if autoattack is None else autoattack["interval95"],
            "autoattack_mode": None if autoattack is None else autoattack["attack"].get("mode"),
            "lowest": _lowest(outcomes, eps),
            **_quantization(result),
            "masking": None if masking is None else {key: masking[key] for key in ("verdict", "reasons", "n")},
            "checkpoint": result["checkpoint"],
            "data": result["data"],
        },
    }


def _autoattack(outcomes: Mapping[str, Any]) -> tuple[str, str, float]:
    """Name, norm and budget of the AutoAttack outcome to show; without one, of the leaderboard in L-inf."""
    found = []
    for name, outcome in outcomes.items():
        if not name.startswith("autoattack_") or "attacks" in outcome["attack"]:  # of its members
            continue
        if outcome["attack"].get("search_precision", "float32") == "float32":  # any other is no standard AutoAttack
            norm = outcome["attack"]["init_args"]["norm"]
            found.append((outcome["eps"] != EPS[norm], name, norm, outcome["eps"]))
    return min(found)[1:] if found else ("", "linf", EPS["linf"])


def _percent(outcome: Mapping[str, Any] | None) -> str | None:
    return None if outcome is None else f"{100 * outcome['accuracy']:.2f}"


def _lowest(outcomes: Mapping[str, Any], eps: float) -> dict[str, Any] | None:
    """The lowest accuracy under any attack of the budget, which is the one to believe."""
    attacked = [(o["accuracy"], name, o["n"]) for name, o in outcomes.items() if "attack" in o and o["eps"] == eps]
    if not attacked:
        return None
    accuracy, name, n = min(attacked)
    return {"accuracy": accuracy, "outcome": name, "n": n}


def _quantization(result: Mapping[str, Any]) -> dict[str, Any]:
    scheme, cost = result.get("scheme"), result.get("cost", {})
    bits = (scheme or {}).get("init_args", {})
    attacks = [outcome.get("attack", {}) for outcome in result["outcomes"].values()]
    gradients = {attack.get("gradient", attack.get("threat")) for attack in attacks}  # its name until 0.1.0
    return {
        "scheme": scheme,
        **{name: bits.get(name) for name in ("weight_bit_width", "act_bit_width", "first_last_bit_width")},
        **{name: cost.get(name) for name in ("size_in_bits", "bit_ops")},
        "gradient_modes": sorted(gradients & {"ste", "ste_soft", "hard"}),
    }
