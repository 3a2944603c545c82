"""Outcomes without their examples: the attack, its threat model, and the remaining accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from qra.evaluation.statistics import wilson_interval
from qra.types import Norm, format_pixels

Role = Literal["clean", "robust", "part", "worst", "shift", "fault", "deployed"]
"""Role of an outcome.

``clean``: clean images. ``robust``: a complete attack. ``part``: a part of an attack, or anything else that is not this
network's accuracy under an attack. ``worst``: the worst case over attacks. ``shift``: shifted images. ``fault``: a
hardware fault. ``deployed``: the deployed network.
"""

PixelContract = Literal["float", "bytes"]
"""Pixels that an attacker may send, which are any in [0, 1] or multiples of 1/255."""


class ThreatModel(NamedTuple):
    """The constraints on an attacker.

    Attributes:
        norm: Norm of the ball.
        eps: Radius of the ball, in pixel units.
        pixels: Whether the attacker sends ``float`` images or ``bytes``.
    """

    norm: Norm
    eps: float
    pixels: PixelContract = "float"

    @property
    def levels(self) -> float:
        """Radius in pixel levels of 255."""
        return round(self.eps * 255, 4)

    @property
    def title(self) -> str:
        """Display name, such as ``eps 8/255``, ``L2 eps 0.5`` or ``eps 8/255 in bytes``."""
        eps = f"eps {format_pixels(self.eps)}" if self.norm == "linf" else f"L2 eps {self.eps:g}"
        return eps if self.pixels == "float" else f"{eps} in bytes"

    @property
    def key(self) -> str:
        """Part of the names of outcomes, such as ``8``, ``l2_0.5`` or ``8_bytes``."""
        eps = f"{self.levels:g}" if self.norm == "linf" else f"{self.norm}_{self.eps:g}"
        return eps if self.pixels == "float" else f"{eps}_{self.pixels}"

    def is_close(self, other: ThreatModel) -> bool:
        """Return whether another threat model is the same, up to rounding of eps."""
        return self.norm == other.norm and self.pixels == other.pixels and abs(self.eps - other.eps) < 1e-6


@dataclass(frozen=True)
class Accuracy:
    """An accuracy as a fraction of n examples, with its Wilson interval at 95 %.

    Args:
        value: Accuracy in [0, 1]; the mean if there are several seeds.
        n: Number of examples per seed.
        seeds: Accuracies of several seeds, ascending.
        error: Standard error over seeds and examples; None if there are too few seeds to estimate it.
        missing: Number of seeds whose accuracy is unknown and which the mean excludes.
    """

    value: float
    n: int
    seeds: tuple[float, ...] = ()
    error: float | None = None
    missing: int = 0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of ``value``, which covers the choice of test examples and, given ``error``, that of seeds."""
        if self.error is not None:
            return max(0.0, self.value - 1.96 * self.error), min(1.0, self.value + 1.96 * self.error)
        return wilson_interval(round(self.value * self.n), self.n)


@dataclass(frozen=True)
class Measured:
    """One outcome of a network, without its examples.

    Args:
        name: Key in the files.
        title: Display name of the attack and its settings, without the threat model, such as ``PGD-20``.
        role: Role of the outcome, such as ``robust``.
        threat_model: Constraints on the attacker; eps is 0 without an attack.
        accuracy: Fraction of examples that are correct, and their number.
        gradient: How roundings are differentiated, such as ``ste``; empty if no gradient is taken, and for ``ste`` on
            another network.
        source: Source network of the adversarial images, if it is not the attacked one: its ``path`` and ``sha256``, or
            a ``name``.
        search_precision: Precision of the attack's computations; its successes are judged in float32.
        standard: Name of the published protocol that the settings match, such as ``AutoAttack``; empty if there is
            none.
        members: Names of the outcomes that a worst case covers.
        survivors_of: Names of outcomes; only examples that survived them were attacked.
        attack: Description of the attack; empty for clean images.
        rounded_afterwards: Accuracy on the adversarial images rounded to bytes after the attack, in old files. It is
            only an upper bound, since the attack did not search among bytes.
    """

    name: str
    title: str
    role: Role
    threat_model: ThreatModel
    accuracy: Accuracy
    gradient: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)
    search_precision: str = "float32"
    standard: str = ""
    members: tuple[str, ...] = ()
    survivors_of: tuple[str, ...] = ()
    attack: Mapping[str, Any] = field(default_factory=dict, repr=False)
    rounded_afterwards: float | None = None

    @property
    def attacks(self) -> bool:
        """Whether the outcome is that of a complete attack with a positive budget."""
        return self.role == "robust" and self.threat_model.eps > 0

    @property
    def stands_alone(self) -> bool:
        """Whether its accuracy is meaningful without that of other attacks.

        This is false for true gradients of rounding, which are zero, and for an attack on another network or on the
        survivors of other attacks, which only complements one on the network itself.
        """
        return self.attacks and self.gradient != "hard" and not self.source and not self.survivors_of

    @property
    def kind(self) -> str:
        """The attack in words, without its threat model; equal for the same attack on several networks."""
        gradient = "" if self.gradient == "ste" else self.gradient
        source = str(self.source.get("name") or "transferred") if self.source else ""
        precision = "" if self.search_precision == "float32" else f"searched in {self.search_precision}"
        return ", ".join(filter(None, (self.title, gradient, source, precision)))

    @property
    def is_modified(self) -> bool:
        """Whether the attack uses gradients other than straight-through ones, or another network."""
        return self.gradient not in ("", "ste") or bool(self.source)


def read_measured(name: str, summary: object) -> Measured:
    """Read an outcome from its entry in ``result.json``, an untrusted file, in schema 2.

    Raises:
        ValueError: If the entry is not a valid outcome.
    """
    found = summary if isinstance(summary, dict) else {}
    value, n, eps = numbers(found)
    if "problem" in found:
        raise ValueError(str(found["problem"]))
    role, norm, pixels = found.get("role"), found.get("norm", "linf"), found.get("pixels", "float")
    for key, given, known in (("role", role, Role), ("norm", norm, Norm), ("pixels", pixels, PixelContract)):
        if given not in get_args(known):
            raise ValueError(f"{key} is {given!r}, not one of {', '.join(get_args(known))}")
    return Measured(
        name,
        _text(found, "title") or name,
        role,  # type: ignore[arg-type]
        ThreatModel(norm, eps, pixels),
        Accuracy(value, n),
        _text(found, "gradient"),
        _mapping(found, "source"),
        _text(found, "search_precision") or "float32",
        _text(found, "standard"),
        _texts(found, "members"),
        _texts(found, "survivors_of"),
        _mapping(found, "attack"),
        fraction(found.get("accuracy_rounded_afterwards")),
    )


def numbers(summary: Mapping[str, Any]) -> tuple[float, int, float]:
    """Return accuracy, number of examples and radius of the ball (0 if missing) of an outcome in a file.

    Raises:
        ValueError: If one of them is not a number or is out of range.
    """
    values = [summary.get("accuracy"), summary.get("n"), summary.get("eps", 0.0)]
    if not all(type(value) in (int, float) and abs(value) < 1e300 for value in values):
        raise ValueError("accuracy, n or eps is not a number")
    accuracy, n, eps = map(float, values)
    if not (1 <= n < 2**53 and n.is_integer() and 0 <= accuracy <= 1):
        raise ValueError(f"accuracy is {accuracy:g} of {n:g} examples")
    if eps < 0:
        raise ValueError(f"eps is {eps:g}")
    return accuracy, int(n), eps


def fraction(value: Any) -> float | None:
    """Return a value from a file as a number in [0, 1], or None if it is not one."""
    return float(value) if type(value) in (int, float) and 0 <= value <= 1 else None


def _text(found: Mapping[str, Any], key: str) -> str:
    value = found.get(key)
    return value if isinstance(value, str) else ""


def _texts(found: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = found.get(key)
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _mapping(found: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = found.get(key)
    return value if isinstance(value, dict) else {}
