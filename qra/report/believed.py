"""The part of a cell's result that can be trusted: outcomes that are possible and agree with their examples."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from qra.evaluation.measured import Measured, Role, read_measured
from qra.evaluation.outcome import Examples
from qra.evaluation.radii import RADII, Radii, read_radii
from qra.evaluation.store import CORRECT, agreeing_examples
from qra.files import plain

_NO_ATTACKS = {*get_args(Role)} - {"robust"}
_LEFT_OUT = "; without it, robust accuracies of the cell may be too high and do not count"
_LOST = "; without them, there is no worst case over several attacks"
_AGAIN = "write both again by qra test"


class Believed(NamedTuple):
    """The trusted part of a result.

    Attributes:
        outcomes: Outcomes by name, without worst cases, which are computed from the others. There are no attacks if an
            outcome that cannot be trusted may have been the strongest.
        examples: Indices and correctness of each example, by name of the outcome.
        lost: Names of outcomes whose examples were stored once but are missing.
        radii: Smallest perturbations of the examples, by name of the outcome.
        problems: What is wrong with the rest, one line each.
    """

    outcomes: dict[str, Measured]
    examples: dict[str, Examples]
    lost: frozenset[str]
    radii: dict[str, Radii]
    problems: tuple[str, ...]


def believed(directory: Path, result: Mapping[str, Any]) -> Believed:
    """Read the files beside a ``result.json`` and check that they agree with it; never raises.

    Args:
        directory: Directory of the cell, whose files are untrusted.
        result: Content of its ``result.json``; see :func:`qra.evaluation.outcome.read_result`.
    """
    summaries = result["outcomes"]
    outcomes, wrong = _outcomes(summaries)
    examples, broken, contradictions = _examples(directory, result)
    wrong |= contradictions
    is_sure = not any(_may_attack(summaries.get(name)) for name in wrong)
    kept = {name: each for name, each in outcomes.items() if name not in wrong and (is_sure or not each.attacks)}
    is_damaged = bool(broken) and os.path.lexists(directory / CORRECT)  # earlier versions did not write it
    lacking = [name for name in kept if name not in examples]
    lost = lacking if is_damaged else [name for name in lacking if summaries[name].get("examples")]
    problems = [f"{said}{_LEFT_OUT if _may_attack(summaries.get(name)) else ''}" for name, said in wrong.items()]
    if lost:
        said = broken or f"{CORRECT}: lacks {', '.join(map(plain, lost))}: {_AGAIN}"
        problems.append(f"{said}{_LOST}")
    radii, more = _radii(directory, kept, summaries)
    return Believed(kept, examples, frozenset(lost), radii, (*problems, *more))


def _outcomes(summaries: Mapping[str, Any]) -> tuple[dict[str, Measured], dict[str, str]]:
    """Return the outcomes that are possible, and what is wrong with each of the others."""
    outcomes, problems = {}, {}
    for name, summary in summaries.items():
        try:
            measured = read_measured(name, summary)
        except ValueError as reason:
            problems[name] = f"outcome {name}: {reason}"
            continue
        if measured.role != "worst":
            outcomes[name] = measured
    return outcomes, problems


def _may_attack(summary: Any) -> bool:
    """Return whether an untrusted outcome may be one that a worst case would include."""
    return not isinstance(summary, dict) or str(summary.get("role")) not in _NO_ATTACKS


def _examples(directory: Path, result: Mapping[str, Any]) -> tuple[dict[str, Examples], str, dict[str, str]]:
    """Return the examples that agree with a result, what is wrong with their file, and with each outcome."""
    try:
        found, problems = agreeing_examples(directory, result)
    except (OSError, ValueError) as reason:
        return {}, _said(directory / CORRECT, reason), {}
    return found, "", {name: f"{CORRECT}: {said}: {_AGAIN}" for name, said in problems.items()}


def _radii(
    directory: Path, outcomes: Mapping[str, Measured], summaries: Mapping[str, Any]
) -> tuple[dict[str, Radii], list[str]]:
    """Return the smallest perturbations that agree with a result, and what is wrong with the others."""
    try:
        found = read_radii(directory, outcomes)
    except (OSError, ValueError) as reason:
        return {}, [_said(directory / RADII, reason)]
    lost = [name for name in outcomes if name not in found and summaries[name].get("radii")]
    return found, [f"{RADII}: lacks or contradicts {', '.join(map(plain, lost))}: {_AGAIN}"] if lost else []


def _said(path: Path, reason: Exception) -> str:
    """Return what is wrong with a file, naming it without its directory."""
    text = (reason.strerror or str(reason)) if isinstance(reason, OSError) else str(reason).removeprefix(f"{path}: ")
    return f"{path.name}: {plain(text)}"
