"""Whether a network seems to hide its gradients, so that its robust accuracy may be too high."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from qra.evaluation.measured import fraction

State = Literal["sound", "suspect", "not judged"]
"""``sound``: a check was made and found no sign of it; ``suspect``: there is a sign; ``not judged``: no check was
made, and what every test looks at shows no sign."""

CHECK, SIGNS = "masking", "signs"
"""Where ``result.json`` holds what ``MaskingCheck`` found, and what every test looks at: each a mapping with a
``verdict`` and ``reasons``. The latter can make a network suspect, but not sound."""


@dataclass(frozen=True)
class Doubt:
    """What is known of the gradients of a network.

    Args:
        state: The state in a word.
        reasons: Why a network is suspect, in words.
        n: Number of examples that were checked; None without a check.
        detection_limit: Smallest overstatement of robust accuracy, in [0, 1], that the check would have noticed; None
            if that is not known.
    """

    state: State = "not judged"
    reasons: tuple[str, ...] = ()
    n: int | None = None
    detection_limit: float | None = None

    @property
    def words(self) -> str:
        """The state and, of a sound network, what would not have been noticed."""
        if self.state != "sound" or self.detection_limit is None:
            return self.state
        return f"sound (overstatement below {100 * self.detection_limit:.1f} points not noticed)"

    def summary(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "state": self.state,
            "reasons": list(self.reasons),
            "n": self.n,
            "detection_limit": self.detection_limit,
        }


def doubt_of(result: Mapping[str, Any]) -> Doubt:
    """What a ``result.json``, an untrusted file, says of the gradients; what cannot be read is no sound verdict."""
    check, signs = (_read(result.get(key)) for key in (CHECK, SIGNS))
    reasons = (*check.reasons, *(reason for reason in signs.reasons if reason not in check.reasons))
    state: State = "suspect" if "suspect" in (check.state, signs.state) else check.state
    return Doubt(state, reasons, check.n, check.detection_limit)


def _read(found: Any) -> Doubt:
    if found is None:
        return Doubt()
    if not isinstance(found, dict):
        return Doubt("suspect", ("the verdict cannot be read",))
    verdict, reasons, n = found.get("verdict"), found.get("reasons"), found.get("n")
    known = tuple(str(reason) for reason in reasons) if isinstance(reasons, list) else ()
    state: State = "sound" if verdict == "sound" else "not judged" if verdict == "not judged" else "suspect"
    return Doubt(state, known, n if type(n) is int else None, fraction(found.get("detection_limit")))


def worst_state(states: Iterable[State]) -> State:
    """The one of several networks that says least for them: suspect before not judged before sound."""
    found = set(states)
    return next((state for state in ("suspect", "not judged") if state in found), "sound")
