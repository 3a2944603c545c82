"""Reading the results of single runs, which are untrusted files, for comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qra.evaluation import store
from qra.evaluation.doubt import Doubt, doubt_of
from qra.evaluation.measured import Accuracy, Measured, read_measured
from qra.evaluation.outcome import Examples, read_result
from qra.evaluation.radii import Radii, read_radii
from qra.evaluation.statistics import shared
from qra.files import plain


@dataclass(frozen=True)
class Run:
    """Results of a run.

    Args:
        name: Path that the run was read from.
        result: Content of its ``result.json``, in schema 2.
        outcomes: Outcomes by label, which is the same for the same kind of outcome in other runs.
        examples: Positions and correctness by label; empty if not requested.
        doubt: Verdict on gradient masking in its network.
        radii: Smallest perturbations by label, where they were measured; empty if not requested.
    """

    name: str
    result: Mapping[str, Any] = field(repr=False)
    outcomes: Mapping[str, Measured]
    examples: Mapping[str, Examples] = field(repr=False)
    doubt: Doubt
    radii: Mapping[str, Radii] = field(default_factory=dict, repr=False)

    @property
    def data(self) -> str:
        """Hash of the data."""
        return self._sha256("data")

    @property
    def network(self) -> str:
        """Id of the network; in schema 1, which has none, the hash of its checkpoint."""
        found = self.result.get("network")
        return found if isinstance(found, str) else self._sha256("checkpoint")

    def _sha256(self, part: str) -> str:
        about = self.result.get(part)
        return str(about.get("sha256")) if isinstance(about, Mapping) else str(about)


def read_run(path: str, with_examples: bool = True) -> Run:
    """Read the results of a run.

    Args:
        path: The run directory, or a ``result.json``.
        with_examples: Whether to read ``correct.npz`` and ``radii.npz`` too.

    Raises:
        ValueError: If a file is missing, damaged or of another version, or if the files contradict each other.
    """
    file = Path(path) / store.RESULT if Path(path).is_dir() else Path(path)
    try:
        result = read_result(file)
        outcomes = _labelled([_outcome(file, name, summary) for name, summary in result["outcomes"].items()])
    except FileNotFoundError:
        raise ValueError(f"{file}: there is no result; qra test writes one") from None
    except ValueError as reason:
        raise ValueError(f"{reason}; write it again by qra test") from None
    known = store.read_examples(file.parent, result) if with_examples else {}
    examples = {label: known[each.name] for label, each in outcomes.items() if each.name in known}
    found = read_radii(file.parent, {each.name: each for each in outcomes.values()}) if with_examples else {}
    radii = {label: found[each.name] for label, each in outcomes.items() if each.name in found}
    return Run(path, result, outcomes, examples, doubt_of(result), radii)


def _outcome(file: Path, name: str, summary: object) -> Measured:
    try:
        return read_measured(name, summary)
    except ValueError as reason:
        raise ValueError(f"{file}: outcome {plain(name)}: {reason}") from None


def _labelled(outcomes: Sequence[Measured]) -> dict[str, Measured]:
    """Return outcomes by label; of several with the same label, all but the one on most examples get a number."""
    found: dict[str, list[Measured]] = {}
    for outcome in outcomes:
        found.setdefault(_label(outcome), []).append(outcome)
    labelled = {}
    for label, same in found.items():
        for number, outcome in enumerate(sorted(same, key=lambda each: -each.accuracy.n), 1):
            labelled[label if number == 1 else f"{label} ({number})"] = outcome
    return labelled


def _label(outcome: Measured) -> str:
    """Return kind and threat model in words; worst cases share a label, whichever attacks they cover."""
    if outcome.role == "worst":
        return f"worst case, {outcome.threat_model.title}"
    if outcome.role in ("clean", "shift") or not outcome.attack:
        return outcome.title
    return f"{outcome.kind}, {outcome.threat_model.title}"


def attacked_otherwise(first: Run, second: Run) -> list[str]:
    """Return the labels of two runs whose attack settings, or the attacks that their worst case covers, differ."""
    common = [label for label in first.outcomes if label in second.outcomes]
    return [label for label in common if _settings(first, label) != _settings(second, label)]


def _settings(run: Run, label: str) -> Any:
    outcome = run.outcomes[label]
    if outcome.role != "worst":
        return outcome.attack
    return sorted(label for label, each in run.outcomes.items() if each.name in outcome.members)


def worst_seed(runs: Sequence[Run]) -> dict[str, Accuracy]:
    """Return the worst case of each outcome over runs that differ in their seeds, by label.

    If one network was attacked with several seeds, an example counts as correct only if it is correct in every run. For
    networks trained with several seeds, the worst case is the lowest accuracy.
    """
    one_network = len({run.network for run in runs}) == 1
    worst = {}
    for label in (label for label in runs[0].examples if all(label in run.examples for run in runs)):
        if not one_network:
            worst[label] = min((run.outcomes[label].accuracy for run in runs), key=lambda each: each.value)
            continue
        correct = shared([run.examples[label] for run in runs])[1].all(0)
        if len(correct):
            worst[label] = Accuracy(int(correct.sum()) / len(correct), len(correct))
    return worst
