"""The worst case per example over all attacks with the same threat model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from qra.evaluation.measured import Measured, ThreatModel
from qra.evaluation.outcome import Examples, Outcome
from qra.evaluation.statistics import shared


def by_threat_model(outcomes: Iterable[Measured]) -> dict[ThreatModel, list[Measured]]:
    """Return the attacks of each threat model that has at least one which stands alone.

    Threat models are sorted by norm, then by budget.
    """
    groups: dict[ThreatModel, list[Measured]] = {}
    for outcome in outcomes:
        if outcome.attacks:
            bounds = next((known for known in groups if known.is_close(outcome.threat_model)), outcome.threat_model)
            groups.setdefault(bounds, []).append(outcome)
    return {bounds: groups[bounds] for bounds in sorted(groups) if any(each.stands_alone for each in groups[bounds])}


def robust_accuracies(outcomes: Iterable[Measured]) -> dict[ThreatModel, Measured]:
    """Return the robust accuracy of a network under each threat model: the worst case, or the only attack.

    If examples are missing, so that no worst case is known, the lowest accuracy takes its place.
    """
    known = list(outcomes)
    worst = [each for each in known if each.role == "worst"]
    found = {}
    for bounds, attacks in by_threat_model(known).items():
        cases = [each for each in worst if each.threat_model.is_close(bounds)] or attacks
        found[bounds] = min(cases, key=lambda each: each.accuracy.value)
    return found


def worst_of(members: Sequence[tuple[Measured, Examples]]) -> tuple[list[Measured], Examples]:
    """Return where the network is correct under all of several attacks, on the examples that they share.

    An attack on survivors can only mark further examples as wrong; it does not restrict the shared examples. Other
    attacks are dropped, those with the fewest examples first, until the shared examples are at least half of those of
    the smallest remaining attack.

    Args:
        members: Attacks of one threat model, at least one of which stands alone, with their examples.

    Returns:
        The attacks that were kept, and their worst case.
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
    """Return the worst case of each threat model that has more than one attack.

    Args:
        outcomes: Outcomes of one network on one data set.
        examples: Indices and correctness of each outcome, by name; outcomes without them are ignored.
    """
    found = []
    for bounds, attacks in by_threat_model(each for each in outcomes if each.name in examples).items():
        if len(attacks) > 1:
            kept, (indices, correct) = worst_of([(each, examples[each.name]) for each in attacks])
            about = {"role": "worst", "members": [each.name for each in kept], **bounds._asdict()}
            title = f"worst of {len(kept)} attacks"
            found.append(Outcome(f"worst_{bounds.key}", title, {}, indices, correct, **about))
    return found
