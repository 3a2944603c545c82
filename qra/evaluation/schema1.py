"""Conversion of results of schema 1, which described an outcome by its name alone, to schema 2."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from qra.attacks.autoattack import AUTOATTACK, STANDARD, shortened

_NAME = re.compile(r"(?P<attack>[a-z]+\d*)_(?P<levels>\d+(?:\.\d+)?)(?:_(?P<mode>[a-z0-9_]+))?")
_TRANSFERRED = "surrogate"
_GRADIENTS = ("ste_soft", "ste", "hard")
_PRECISIONS = ("bfloat16", "tf32")
_WITHOUT_GRADIENTS = ("square", "random")


def upgraded(result: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the content of a ``result.json`` from schema 1 to schema 2.

    An outcome whose name contradicts its budget gets an explanation under ``problem``.

    Args:
        result: Content of a ``result.json`` whose ``outcomes`` are a mapping.
    """
    outcomes = {name: _upgraded(name, summary) for name, summary in result["outcomes"].items()}
    return {**result, "schema": 2, "outcomes": outcomes}


def _upgraded(name: str, summary: Any) -> Any:
    if not isinstance(summary, dict):
        return summary
    attack, eps = summary.get("attack"), summary.get("eps", 0.0)
    settings = attack if isinstance(attack, dict) else {}
    match = _NAME.fullmatch(name)
    if match and type(eps) in (int, float) and "eps" in summary and not _is_level(eps, float(match["levels"])):
        return {**summary, "problem": f"eps is {255 * eps:g}/255"}
    if match and "eps" not in summary:
        eps = float(match["levels"]) / 255
    found = implied(name, settings, eps if type(eps) in (int, float) else 0.0)
    names = {"accuracy_as_bytes": "accuracy_rounded_afterwards"}
    return {**found, **{names.get(key, key): value for key, value in summary.items()}, "eps": eps}


def _is_level(eps: float, levels: float) -> bool:
    return math.isclose(255 * eps, levels, abs_tol=1e-3)


def implied(name: str, settings: Mapping[str, Any], eps: float) -> dict[str, Any]:
    """Return the fields of schema 2 that follow from the name, settings and budget of an outcome.

    Args:
        name: Name of the outcome, such as ``pgd20_8_hard``.
        settings: Description of the attack; empty for clean images.
        eps: Radius of the ball, in pixel units.
    """
    match = _NAME.fullmatch(name)
    kind = match["attack"] if match else name.partition("_")[0]
    mode = (match["mode"] or "") if match else ""
    arguments = settings.get("init_args")
    arguments = arguments if isinstance(arguments, dict) else {}
    precision = settings.get("search_precision") or next((p for p in _PRECISIONS if mode.endswith(p)), "float32")
    norm = arguments.get("norm")
    standard, title = _names(kind, arguments, str(precision))
    if parts := settings.get("attacks"):
        standard, title = "", f"after {str(parts).strip('[]').split()[-1]}"
    return {
        "title": title,
        "role": _role(name, settings, norm, match is not None, eps),
        "norm": norm if norm in ("linf", "l2") else "linf",
        "pixels": "float",
        "gradient": _gradient(kind, mode, settings, eps),
        "source": _source(mode, settings),
        "search_precision": precision,
        "standard": standard,
        "survivors_of": settings.get("survivors_of") or [],
        "members": settings.get("members") or [],
    }


def _role(name: str, settings: Mapping[str, Any], norm: Any, is_named: bool, eps: float) -> str:
    if name == "clean":
        return "clean"
    if "members" in settings or name.startswith("worst_"):
        return "worst"
    if "attacks" in settings or (not settings and not is_named):
        return "part"
    return "robust" if is_named or (eps > 0 and norm == "l2") else "part"


def _names(kind: str, arguments: Mapping[str, Any], precision: str) -> tuple[str, str]:
    """Return the published protocol, empty if there is none, and the display name of an attack."""
    if kind == "autoattack":
        title = shortened(AUTOATTACK, arguments, STANDARD)
        return title if title == AUTOATTACK and precision == "float32" else "", title
    steps = kind.removeprefix("pgd")
    if kind.startswith("pgd") and steps.isdigit():
        restarts = arguments.get("restarts", 1)
        more = f" x {restarts}" if type(restarts) is int and restarts > 1 else ""
        return "", f"PGD-{steps}{more}"
    return "", {"square": "Square", "worst": "worst case"}.get(kind, kind)


def _gradient(kind: str, mode: str, settings: Mapping[str, Any], eps: float) -> str:
    if eps == 0 or kind in _WITHOUT_GRADIENTS:
        return ""
    threat = settings.get("gradient", settings.get("threat"))
    if threat == _TRANSFERRED or mode.startswith(_TRANSFERRED):
        return ""
    if threat in _GRADIENTS:
        return str(threat)
    return next((gradient for gradient in _GRADIENTS if mode.startswith(gradient)), "ste")


def _source(mode: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    found = settings.get(_TRANSFERRED)
    if isinstance(found, dict):
        return found
    return {"name": _TRANSFERRED} if mode.startswith(_TRANSFERRED) else {}
