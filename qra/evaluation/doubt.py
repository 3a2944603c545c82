"""Verdicts on gradient masking, under which a network's robust accuracy may be overstated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from qra.evaluation.measured import Measured, fraction, read_measured
from qra.evaluation.signs import left_at_large_eps

State = Literal["sound", "suspect", "not judged"]
"""Verdict on gradient masking.

``sound``: the masking check was run and found no sign of it. ``suspect``: there is a sign. ``not judged``: the check
was not run, and the signs that every test looks for are absent.
"""

CHECK, SIGNS = "masking", "signs"
"""Keys of ``result.json`` for the findings of ``MaskingCheck`` and for the signs that every test looks for.

Each holds a mapping with a ``verdict`` and ``reasons``. The signs can make a network suspect, but not sound.
"""


@dataclass(frozen=True)
class Doubt:
    """The verdict on gradient masking in a network.

    Args:
        state: The verdict, see :data:`State`.
        reasons: Why the network is suspect, in words.
        n: Number of examples checked; None if no check was run.
        detection_limit: Smallest overstatement of robust accuracy, in [0, 1], that the check would have detected; None
            if unknown.
    """

    state: State = "not judged"
    reasons: tuple[str, ...] = ()
    n: int | None = None
    detection_limit: float | None = None

    @property
    def words(self) -> str:
        """The state; for a sound network also the overstatement that would have gone unnoticed, if known."""
        if self.state != "sound" or self.detection_limit is None:
            return self.state
        return f"sound (overstatement below {100 * self.detection_limit:.1f} points not noticed)"

    def summary(self) -> dict[str, Any]:
        """Return the verdict as a dictionary, ready for JSON."""
        return {
            "state": self.state,
            "reasons": list(self.reasons),
            "n": self.n,
            "detection_limit": self.detection_limit,
        }


def doubt_of(result: Mapping[str, Any]) -> Doubt:
    """Return the verdict in a ``result.json``, an untrusted file; an unreadable verdict counts as suspect.

    The signs there are those of the last test, but what is left under a large budget counts whichever test measured it.
    """
    check, signs = (_read(result.get(key)) for key in (CHECK, SIGNS))
    left = [each.reason for each in left_at_large_eps(_measured(result.get("outcomes"))) if each.suspect]
    reasons = tuple(dict.fromkeys((*check.reasons, *signs.reasons, *left)))
    state: State = "suspect" if left or "suspect" in (check.state, signs.state) else check.state
    return Doubt(state, reasons, check.n, check.detection_limit)


def _measured(outcomes: Any) -> Iterator[Measured]:
    """Yield the outcomes in a file that can be read."""
    for name, summary in outcomes.items() if isinstance(outcomes, dict) else ():
        with suppress(ValueError):
            yield read_measured(name, summary)


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
    """Return the worst of several states: suspect before not judged before sound; sound if there are none."""
    found = set(states)
    return next((state for state in ("suspect", "not judged") if state in found), "sound")
