"""Outcomes of one network on one data set, which accumulate in its run directory over several tests."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
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
"""Folder of a run directory with results of other networks or data tested there earlier."""
_NEXT = "correct.next.npz"
"""File with the examples of the next ``result.json``, until that has replaced the present one."""
_FOUND = ("title", "accuracy", "interval95", "accuracy_rounded_afterwards", "radii", "test")
"""Keys of an outcome that are results, as opposed to those that identify it."""
_ANEW = ("schema", "outcomes", "partial")
"""Keys of ``result.json`` that concern only the last test or are recomputed."""
_SHEET = ("command", "versions", "commit", "device", "seconds")
"""Keys of schema 1 that describe its only test."""


@dataclass
class Gathered:
    """All results of one network on one data set.

    Args:
        content: Content of ``result.json`` without the outcomes.
        summaries: Summary of each outcome, by name.
        examples: Indices and correctness of each outcome, by name.
        radii: Smallest perturbations of each outcome's examples, by name, where they were measured.
    """

    content: dict[str, Any] = field(default_factory=dict)
    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    examples: dict[str, Examples] = field(default_factory=dict)
    radii: dict[str, Radii] = field(default_factory=dict)

    def add(self, outcomes: Iterable[Outcome], test: int) -> None:
        """Add outcomes; each replaces one that differs from it only in its results and its test.

        A different outcome with the same name is kept under a name with a numeric suffix.

        Args:
            outcomes: Outcomes on the CPU. Worst cases are skipped, since they are recomputed.
            test: Index of their test in ``content["tests"]``.
        """
        for outcome in (outcome for outcome in outcomes if outcome.role != "worst"):
            summary = {**outcome.summary(), "test": test}
            key = _key(outcome.name, summary)
            for name in [name for name, known in self.summaries.items() if _key(name, known) == key]:
                self._remove(name)
            if outcome.name in self.summaries:
                self._rename(outcome.name)
            self.summaries[outcome.name] = summary
            self.examples[outcome.name] = (outcome.indices, outcome.correct)
            self.radii |= {} if outcome.radii is None else {outcome.name: outcome.radii}

    def _remove(self, name: str) -> None:
        del self.summaries[name]
        self.examples.pop(name, None)
        self.radii.pop(name, None)

    def _rename(self, name: str) -> None:
        """Rename an outcome to free its name, and update references to it."""
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

    def measured(self) -> list[Measured]:
        """Return all outcomes that can be read, clean images first."""
        found = []
        for name, summary in self.summaries.items():
            try:
                found.append(read_measured(name, summary))
            except ValueError:
                continue
        return sorted(found, key=lambda each: each.role != "clean")

    def judge(self) -> None:
        """Recompute the worst cases."""
        for name in [name for name, summary in self.summaries.items() if summary.get("role") == "worst"]:
            self._remove(name)
        for outcome in worst_cases(self.measured(), self.examples):
            self.summaries[outcome.name] = outcome.summary()
            self.examples[outcome.name] = (outcome.indices, outcome.correct)

    def forget_tests(self) -> None:
        """Remove tests from which no outcome is left."""
        tests = self.content["tests"]
        numbers = {name: summary.pop("test", None) for name, summary in self.summaries.items()}
        numbers = {name: n for name, n in numbers.items() if type(n) is int and 0 <= n < len(tests)}
        used = sorted(set(numbers.values()))
        self.content["tests"] = [tests[number] for number in used]
        for name, number in numbers.items():
            self.summaries[name]["test"] = used.index(number)


def _key(name: str, summary: Mapping[str, Any]) -> str:
    """Return everything that identifies an outcome, as text, including its name if it has no attack."""
    about = {key: value for key, value in summary.items() if key not in _FOUND}
    source = about.get("source")
    if isinstance(source, dict) and "sha256" in source:  # regardless of the file's location
        about["source"] = source["sha256"]
    if "attack" not in about and about.get("role") != "clean":
        about["name"] = name
    return json.dumps(about, sort_keys=True)


def gather(
    directory: Path, content: Mapping[str, Any], outcomes: Iterable[Outcome], test: Mapping[str, Any]
) -> tuple[Gathered, str]:
    """Merge the outcomes of a test with those in a run directory, if they belong to the same network and data.

    Otherwise, or if they are damaged, the existing results are moved to a new folder under ``earlier/``.

    Args:
        directory: Directory of the run, which only this process writes to.
        content: Content of ``result.json`` besides the outcomes, including ``network`` and ``data``.
        outcomes: New outcomes, on the CPU.
        test: Description of the test, ready for JSON: command, date, versions.

    Returns:
        The merged results, and a line about what was moved, empty if nothing was.
    """
    gathered, said = _known(directory, content)
    tests = [*gathered.content.get("tests", ()), dict(test)]
    gathered.content |= {**content, "tests": tests}
    gathered.add(outcomes, len(tests) - 1)
    gathered.judge()
    gathered.forget_tests()
    return gathered, said


def _known(directory: Path, content: Mapping[str, Any]) -> tuple[Gathered, str]:
    """Return the results in a directory if they match the network and data of ``content``; else move them aside."""
    if not (directory / RESULT).exists():
        return Gathered(), ""
    try:
        result = read_result(directory / RESULT)
        examples = read_examples(directory, result)
        if is_same(result, content):
            gathered = _as_gathered(result, examples)
            gathered.radii = read_radii(directory, {each.name: each for each in gathered.measured()})
            return gathered, ""
        reason = "is for another network or other data"
    except (OSError, ValueError) as error:
        reason = str(error).removeprefix(f"{directory / RESULT}: ").removeprefix(f"{directory / CORRECT}: ")
    return Gathered(), f"{plain(directory / RESULT)} {plain(reason)}: moved to {plain(move_aside(directory))}"


def _as_gathered(result: Mapping[str, Any], examples: dict[str, Examples]) -> Gathered:
    """Return the content of a file as results; those of schema 1 get the ids of their examples and their test."""
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
    """Move the result of a run and its accompanying files into a new folder under ``earlier/``, and return the folder.

    Only this process may write to the directory.
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
    """Write ``result.json`` and ``correct.npz`` together atomically, and ``radii.npz`` if there are radii.

    Only this process may write to the directory. The content of ``result.json`` is returned.
    """
    summaries = {each.name: gathered.summaries[each.name] for each in gathered.measured()}
    result = {"schema": SCHEMA, "outcomes": summaries, **gathered.content}
    if gathered.radii:  # radii unknown to an older result are ignored when read
        write_arrays(directory / RADII, radii_arrays(gathered.radii), compressed=True)
    write_arrays(directory / _NEXT, correct_arrays(gathered.examples), compressed=True)
    write_json(directory / RESULT, result)  # from here on the new examples are valid
    os.replace(directory / _NEXT, directory / CORRECT)
    return result


def read_examples(directory: Path, result: Mapping[str, Any]) -> dict[str, Examples]:
    """Read the examples of each outcome of a result from its directory.

    Raises:
        ValueError: If the examples are missing or damaged, or contradict the result.
    """
    found, problems = agreeing_examples(directory, result)
    if problems:
        raise ValueError(f"{directory / CORRECT}: {next(iter(problems.values()))}; write both again by qra test")
    return found


def agreeing_examples(directory: Path, result: Mapping[str, Any]) -> tuple[dict[str, Examples], dict[str, str]]:
    """Read the examples that agree with their outcomes, and describe what is wrong with the others.

    Returns:
        Indices and correctness by name of outcome, and descriptions of the problems by name.

    Raises:
        ValueError: If the examples are missing or damaged.
    """
    if (directory / _NEXT).exists():  # a writer was killed, before or after it replaced the result
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
