"""Outcomes of one network on one set of data, which gather in its run directory test by test."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qra.evaluation.identity import is_same
from qra.evaluation.measured import Measured, numbers, read_measured
from qra.evaluation.outcome import (
    SCHEMA,
    Examples,
    Outcome,
    agrees,
    correct_arrays,
    examples_id,
    read_correct,
    read_result,
)
from qra.evaluation.radii import RADII, Radii, radii_arrays, read_radii
from qra.evaluation.worst import worst_cases
from qra.files import plain
from qra.writing import write_arrays, write_json

RESULT, CORRECT = "result.json", "correct.npz"
EARLIER = "earlier"
"""Folder of a run directory with the results of other networks or data that were tested there before."""
_NEXT = "correct.next.npz"
"""The examples of a ``result.json`` that is about to be replaced."""
_FOUND = ("title", "accuracy", "interval95", "accuracy_rounded_afterwards", "radii", "test")
"""What an outcome says beside what it is an outcome of."""
_ANEW = ("schema", "outcomes", "partial")
"""What ``result.json`` says of the last test alone, or is found again."""
_SHEET = ("command", "versions", "commit", "device", "seconds")
"""What schema 1 says of the one test that it was of."""


@dataclass
class Gathered:
    """What is known of one network on one set of data.

    Args:
        content: Content of ``result.json``, all but the outcomes.
        summaries: What is said of each outcome, by name.
        examples: Indices and correctness of each outcome, by name.
        radii: Smallest perturbations of the examples of an outcome, by name, where they were looked for.
    """

    content: dict[str, Any] = field(default_factory=dict)
    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    examples: dict[str, Examples] = field(default_factory=dict)
    radii: dict[str, Radii] = field(default_factory=dict)

    def add(self, outcomes: Iterable[Outcome], test: int) -> None:
        """Take in outcomes; each replaces one that differs from it in nothing but what was found, and when.

        Another outcome of its name stays, under a name with a number.

        Args:
            outcomes: Outcomes on the CPU; worst cases are left out, for they are found anew.
            test: Number of the test that found them, among ``content["tests"]``.
        """
        names = {_key(name, summary): name for name, summary in self.summaries.items()}
        for outcome in (outcome for outcome in outcomes if outcome.role != "worst"):
            summary = {**outcome.summary(), "test": test}
            key = _key(outcome.name, summary)
            if key in names:
                self._remove(names.pop(key))
            if outcome.name in self.summaries:
                names = {k: name for k, name in names.items() if name != outcome.name}
                new = self._rename(outcome.name)
                names[_key(new, self.summaries[new])] = new
            names[key] = outcome.name
            self.summaries[outcome.name] = summary
            self.examples[outcome.name] = (outcome.indices, outcome.correct)
            self.radii |= {} if outcome.radii is None else {outcome.name: outcome.radii}

    def _remove(self, name: str) -> None:
        del self.summaries[name]
        self.examples.pop(name, None)
        self.radii.pop(name, None)

    def _rename(self, name: str) -> str:
        """Make room for another outcome of this name, and tell those that name it; the new name."""
        number = 2
        while (new := f"{name}-{number}") in self.summaries:
            number += 1
        self.summaries = {new if each == name else each: summary for each, summary in self.summaries.items()}
        if name in self.examples:
            self.examples[new] = self.examples.pop(name)
        if name in self.radii:
            self.radii[new] = self.radii.pop(name)
        for summary in self.summaries.values():
            if name in summary.get("survivors_of", ()):
                summary["survivors_of"] = [new if each == name else each for each in summary["survivors_of"]]
        return new

    def measured(self) -> list[Measured]:
        """All outcomes that can be read; clean images first."""
        found = []
        for name, summary in self.summaries.items():
            try:
                found.append(read_measured(name, summary))
            except ValueError:
                continue
        return sorted(found, key=lambda each: each.role != "clean")

    def judge(self) -> None:
        """Find the worst cases again."""
        for name in [name for name, summary in self.summaries.items() if summary.get("role") == "worst"]:
            self._remove(name)
        for outcome in worst_cases(self.measured(), self.examples):
            self.summaries[outcome.name] = outcome.summary()
            self.examples[outcome.name] = (outcome.indices, outcome.correct)

    def forget_tests(self) -> None:
        """Leave out tests that no outcome is from any more."""
        tests = self.content["tests"]
        used = sorted({summary["test"] for summary in self.summaries.values() if _is_place(summary.get("test"), tests)})
        self.content["tests"] = [tests[number] for number in used]
        places = {number: place for place, number in enumerate(used)}
        for summary in self.summaries.values():
            number = summary.pop("test", None)
            summary |= {"test": places[number]} if type(number) is int and number in places else {}


def _is_place(number: Any, items: Sequence[Any]) -> bool:
    return type(number) is int and 0 <= number < len(items)


def _key(name: str, summary: Mapping[str, Any]) -> str:
    """All that an outcome is an outcome of, as text; where no attack says it, its name does."""
    about = {key: value for key, value in summary.items() if key not in _FOUND}
    source = about.get("source")
    if isinstance(source, dict) and "sha256" in source:  # wherever the file lies
        about["source"] = source["sha256"]
    if "attack" not in about and about.get("role") != "clean":
        about["name"] = name
    return json.dumps(about, sort_keys=True)


def gather(
    directory: Path, content: Mapping[str, Any], outcomes: Iterable[Outcome], test: Mapping[str, Any]
) -> tuple[Gathered, str]:
    """Put the outcomes of a test to those that lie in a run directory, if these are of the same network and data.

    If they are not, or are damaged, they are moved aside, into a folder of their own under ``earlier/``.

    Args:
        directory: Directory of the run, which this process alone writes into.
        content: What ``result.json`` is to say beside the outcomes: ``network`` and ``data`` among it.
        outcomes: New ones, on the CPU.
        test: How they were found, ready for JSON: command, date, versions.

    Returns:
        All that is known now, and what was moved aside, in a line; empty if nothing was.
    """
    gathered, said = _known(directory, content)
    tests = [*gathered.content.get("tests", ()), dict(test)]
    gathered.content |= {**content, "tests": tests}
    gathered.add(outcomes, len(tests) - 1)
    gathered.judge()
    gathered.forget_tests()
    return gathered, said


def _known(directory: Path, content: Mapping[str, Any]) -> tuple[Gathered, str]:
    """What lies in a directory of the network and the data that ``content`` is of; anything else is moved aside."""
    if not (directory / RESULT).exists():
        return Gathered(), ""
    try:
        result = read_result(directory / RESULT)
        examples = read_examples(directory, result)
        if is_same(result, content):
            gathered = _as_gathered(result, examples)
            gathered.radii = read_radii(directory, {each.name: each for each in gathered.measured()})
            return gathered, ""
        reason = "is of another network or of other data"
    except (OSError, ValueError) as error:
        reason = str(error).removeprefix(f"{directory / RESULT}: ").removeprefix(f"{directory / CORRECT}: ")
    return Gathered(), f"{plain(directory / RESULT)} {plain(reason)}: moved to {plain(move_aside(directory))}"


def _as_gathered(result: Mapping[str, Any], examples: dict[str, Examples]) -> Gathered:
    """What a file holds; of schema 1 the examples and the test of each outcome are found from the rest."""
    content = {key: value for key, value in result.items() if key not in _ANEW}
    tests = result.get("tests")
    content["tests"] = tests if isinstance(tests, list) else [{key: result.get(key) for key in _SHEET}]
    summaries = {}
    for name, summary in result["outcomes"].items():
        summaries[name] = dict(summary) if "test" in summary or tests else {**summary, "test": 0}
        if name in examples and "examples" not in summary:
            summaries[name]["examples"] = examples_id(examples[name][0])
    return Gathered(content, summaries, examples)


def move_aside(directory: Path) -> Path:
    """Move the result of a run and what belongs to it into a new folder.

    Args:
        directory: Directory of the run, which this process alone writes into.

    Returns:
        The folder.
    """
    number = 1
    while (target := directory / EARLIER / str(number)).exists():
        number += 1
    target.mkdir(parents=True)
    for name in (CORRECT, RADII, _NEXT, "robustbench.json", "masking.png", RESULT):
        if os.path.lexists(directory / name):
            os.replace(directory / name, target / name)
    return target


def write(directory: Path, gathered: Gathered) -> dict[str, Any]:
    """Write ``result.json`` and ``correct.npz``, whole or not at all, and ``radii.npz`` where there are any.

    Args:
        directory: Directory of the run, which this process alone writes into.
        gathered: What that gave.

    Returns:
        The content of ``result.json``.
    """
    summaries = {each.name: gathered.summaries[each.name] for each in gathered.measured()}
    result = {"schema": SCHEMA, "outcomes": summaries, **gathered.content}
    if gathered.radii:  # those that an earlier result does not know are not read
        write_arrays(directory / RADII, radii_arrays(gathered.radii), compressed=True)
    write_arrays(directory / _NEXT, correct_arrays(gathered.examples), compressed=True)
    write_json(directory / RESULT, result)  # from here on the new examples are those that count
    os.replace(directory / _NEXT, directory / CORRECT)
    return result


def read_examples(directory: Path, result: Mapping[str, Any]) -> dict[str, Examples]:
    """The examples of each outcome of a result.

    Args:
        directory: It holds ``result.json`` and ``correct.npz``.
        result: What the former says; see :func:`qra.evaluation.outcome.read_result`.

    Raises:
        ValueError: If they are missing, damaged, or contradict the result.
    """
    found, problems = agreeing_examples(directory, result)
    if problems:
        raise ValueError(f"{directory / CORRECT}: {next(iter(problems.values()))}; write both again by qra test")
    return found


def agreeing_examples(directory: Path, result: Mapping[str, Any]) -> tuple[dict[str, Examples], dict[str, str]]:
    """The examples of those outcomes of a result that they do not contradict, and what is wrong with each other one.

    Args:
        directory: The run directory.
        result: Content of its ``result.json``.

    Raises:
        ValueError: If they are missing or damaged.
    """
    if (directory / _NEXT).exists():  # a writer was killed: was it before or after it had replaced the result?
        with suppress(OSError, ValueError):
            found, problems = _agreeing(read_correct(directory / _NEXT), result["outcomes"])
            if not problems:
                return found, problems
    return _agreeing(read_correct(directory / CORRECT), result["outcomes"])


def _agreeing(
    found: Mapping[str, Examples], summaries: Mapping[str, Any]
) -> tuple[dict[str, Examples], dict[str, str]]:
    kept: dict[str, Examples] = {}
    problems: dict[str, str] = {}
    for name, (indices, correct) in found.items():
        summary = summaries.get(name)
        if summary is None:
            problems[name] = f"{plain(name)} is not in {RESULT}"
            continue
        with suppress(ValueError):
            accuracy, n, _ = numbers(summary if isinstance(summary, dict) else {})
            if agrees(correct, accuracy, n):
                kept[name] = (indices, correct)
                continue
        problems[name] = f"contradicts {RESULT} about {plain(name)}"
    return kept, problems
