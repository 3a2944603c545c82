"""Claims, and how their verdicts follow from comparisons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from qra.evaluation.doubt import State
from qra.report.labels import counted
from qra.report.paired import MARGIN, Comparison, Effect, Gap
from qra.report.results import Results

Verdict = Literal["supported", "contradicted", "undecided", "not tested"]
EXCEPTIONS = 0.1
"""Largest share of the judged checks that may contradict a verdict."""

Judge = Callable[[Sequence[Effect]], bool | None]


@dataclass(frozen=True)
class Check:
    """One place where a claim can hold or fail.

    Args:
        about: Names of the pipelines it is about.
        comparisons: Comparisons that it rests on; empty if they cannot be made.
        judge: Function that decides from their effects whether the claim holds here; None if that is open.
        missing: What would be needed to make the comparisons.
    """

    about: str
    comparisons: tuple[Comparison, ...]
    judge: Judge
    missing: str = ""

    @classmethod
    def of(cls, about: str, judge: Judge, *comparisons: Comparison | Gap | None) -> Check:
        """Make a check of comparisons; it is open if one could not be made. None means no cell to compare with."""
        made = tuple(each for each in comparisons if isinstance(each, Comparison))
        gaps = [each or "no cell to compare with" for each in comparisons if not isinstance(each, Comparison)]
        return cls(about, (), judge, "; ".join(dict.fromkeys(gaps))) if gaps else cls(about, made, judge)


@dataclass(frozen=True)
class Judged:
    """A check with its result.

    Args:
        check: The check.
        effects: Effects of its comparisons.
        holds: Whether it holds; None if that is open.
    """

    check: Check
    effects: tuple[Effect, ...]
    holds: bool | None


@dataclass(frozen=True)
class Finding:
    """The finding of a study about a claim.

    Args:
        verdict: Supported or contradicted if more than half of all checks say so and at most one in ten of those that
            are not open says the opposite; otherwise undecided. Not tested if the study has no cells for it.
        because: Reason, in a sentence.
        judged: Checks that it rests on.
        suspect: Compared pipelines whose gradients are suspect.
        not_judged: Compared pipelines whose gradients were not judged.
    """

    verdict: Verdict
    because: str
    judged: tuple[Judged, ...] = ()
    suspect: tuple[str, ...] = ()
    not_judged: tuple[str, ...] = ()

    @property
    def doubts(self) -> str:
        """How many pipelines are in doubt, in words; empty if none are."""
        counts = (("suspect", len(self.suspect)), ("not judged", len(self.not_judged)))
        return ", ".join(f"{count} {state}" for state, count in counts if count)


@dataclass(frozen=True)
class Claim:
    """A statement and how to test it.

    Args:
        key: Short name.
        statement: The claim.
        source: Paper or code that makes it.
        criterion: Condition under which a check holds, in words.
        needs: Cells that are needed to test it.
        checks: Function that yields the places where it can hold or fail; a pure function of the results.
    """

    key: str
    statement: str
    source: str
    criterion: str
    needs: str
    checks: Callable[[Results], Iterable[Check]]

    def test(self, results: Results) -> Finding:
        """Judge the claim by the results of a study."""
        checks = tuple(self.checks(results))
        family = sum(len(check.comparisons) for check in checks)
        judged = tuple(_judge(check, family) for check in checks)
        if not judged:
            return Finding("not tested", f"The study has no cells for it: {self.needs}.")
        verdict, because = _verdict([each.holds for each in judged])
        return Finding(verdict, because, judged, _titles(checks, "suspect"), _titles(checks, "not judged"))


def _judge(check: Check, family: int) -> Judged:
    effects = tuple(comparison.effect(family) for comparison in check.comparisons)
    return Judged(check, effects, None if check.missing else check.judge(effects))


def _titles(checks: Sequence[Check], state: State) -> tuple[str, ...]:
    """Return the compared sides whose gradients are in a state."""
    compared = [each for check in checks for each in check.comparisons]
    pairs = [pair for each in compared for pair in zip(each.titles, each.states, strict=True)]
    return tuple(sorted({title for title, found in pairs if found == state}))


def _verdict(holds: Sequence[bool | None]) -> tuple[Verdict, str]:
    yes, no, total = holds.count(True), holds.count(False), len(holds)
    counts = f"{counted(total, 'check')}: {yes} hold, {no} fail, {total - yes - no} open"
    exceptions = EXCEPTIONS * (yes + no)
    if 2 * yes > total and no <= exceptions:
        return "supported", f"{counts}."
    if 2 * no > total and yes <= exceptions:
        return "contradicted", f"{counts}."
    return (
        "undecided",
        f"{counts}: {'it depends on the pipeline' if yes and no else 'too few differences are significant'}.",
    )


def meets(*wanted: Literal["higher", "lower", "not lower"]) -> Judge:
    """Return a judge that holds if each effect is as wanted, fails if one surely is not, and is open otherwise."""

    def judge(effects: Sequence[Effect]) -> bool | None:
        found = [_meets(effect, want) for effect, want in zip(effects, wanted, strict=True)]
        return False if False in found else None if None in found else True

    return judge


def _meets(effect: Effect, wanted: str) -> bool | None:
    if wanted == "not lower":
        return True if effect.low > -MARGIN else False if effect.is_lower else None
    sought, opposite = (
        (effect.is_higher, effect.is_lower) if wanted == "higher" else (effect.is_lower, effect.is_higher)
    )
    return True if sought else False if opposite or effect.is_none else None
