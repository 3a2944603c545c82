"""The worst case per example over everything that was tried within the same bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from qra.evaluation.measured import Measured, ThreatModel
from qra.evaluation.outcome import Examples, Outcome
from qra.evaluation.statistics import shared


def by_threat_model(outcomes: Iterable[Measured]) -> dict[ThreatModel, list[Measured]]:
    """The attacks of each threat model, by ascending budget, where at least one of them stands alone.

    Args:
        outcomes: Outcomes of one network, on one set of data.
    """
    groups: dict[ThreatModel, list[Measured]] = {}
    for outcome in outcomes:
        if outcome.attacks:
            bounds = next((known for known in groups if known.is_close(outcome.threat_model)), outcome.threat_model)
            groups.setdefault(bounds, []).append(outcome)
    return {bounds: groups[bounds] for bounds in sorted(groups) if any(each.stands_alone for each in groups[bounds])}


def robust_accuracies(outcomes: Iterable[Measured]) -> dict[ThreatModel, Measured]:
    """The robust accuracy of a network under each threat model: the worst case, or the only attack.

    Args:
        outcomes: Outcomes of one network, on one set of data. Where examples are missing, so that no worst case is
            known, the lowest accuracy stands for it.
    """
    known = list(outcomes)
    worst = [each for each in known if each.role == "worst"]
    found = {}
    for bounds, attacks in by_threat_model(known).items():
        cases = [each for each in worst if each.threat_model.is_close(bounds)] or attacks
        found[bounds] = min(cases, key=lambda each: each.accuracy.value)
    return found


def worst_of(members: Sequence[tuple[Measured, Examples]]) -> tuple[list[Measured], Examples]:
    """Where the network is correct under all of several attacks, on the examples that they share.

    An attack on survivors counts where it was made: it takes examples away and leaves none out. Attacks on another
    choice of examples, which share less than half of theirs with the others, are left out.

    Args:
        members: Attacks of one threat model, at least one of which stands alone, and what they left.

    Returns:
        The attacks that count, and their worst case.
    """
    additions = [member for member in members if member[0].survivors_of]
    whole = [member for member in members if not member[0].survivors_of]
    whole.sort(key=lambda member: (not member[0].stands_alone, -len(member[1][0])))
    indices, correct = shared([examples for _, examples in whole])
    while len(whole) > 1 and 2 * len(indices) < min(len(examples[0]) for _, examples in whole):
        whole.pop()
        indices, correct = shared([examples for _, examples in whole])
    left = correct.all(0)
    for _, (places, survived) in additions:
        left &= ~torch.isin(indices, places[~survived])
    kept = {member[0].name for member in (*whole, *additions)}
    return [measured for measured, _ in members if measured.name in kept], (indices, left)


def worst_cases(outcomes: Iterable[Measured], examples: Mapping[str, Examples]) -> list[Outcome]:
    """The worst case of each threat model under which a network was attacked in more than one way.

    Args:
        outcomes: Outcomes of one network, on one set of data.
        examples: Indices and correctness of each outcome, by name; those that are missing do not count.
    """
    made = []
    for bounds, members in by_threat_model(each for each in outcomes if each.name in examples).items():
        if len(members) > 1:
            names, (indices, correct) = worst_of([(each, examples[each.name]) for each in members])
            made.append(worst_outcome(bounds, [each.name for each in names], indices, correct))
    return made


def worst_outcome(bounds: ThreatModel, members: Sequence[str], indices: Tensor, correct: Tensor) -> Outcome:
    """The outcome that says a worst case.

    Args:
        bounds: Threat model of the attacker.
        members: Names of the attacks.
        indices: Positions in the test set, ascending, int64 (n,).
        correct: Whether the network is correct under all of them, bool (n,).
    """
    return Outcome(
        f"worst_{bounds.key}", f"worst of {len(members)} attacks", {}, indices, correct, bounds.eps, role="worst",
        norm=bounds.norm, pixels=bounds.pixels, members=members,
    )  # fmt: skip
