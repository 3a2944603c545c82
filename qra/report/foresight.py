"""Prediction of which claims a study can decide, before it is run, from its cells with imagined results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch

from qra.attacks import FMN
from qra.callbacks import CorruptionEvaluation, RadiusEvaluation
from qra.checks import pixel_length
from qra.evaluation.measured import Accuracy, Measured, ThreatModel
from qra.evaluation.radii import Radii
from qra.front.shipped import located
from qra.front.yaml_files import is_config, read_value, read_yaml
from qra.report.cells import CellResult
from qra.report.claims import CLAIMS
from qra.report.labels import counted
from qra.report.results import Results
from qra.types import Norm, parse_pixels

BUDGETS = ("0.5/255", "1/255", "2/255", "4/255", "8/255", "16/255", "32/255")
"""Budgets of ``qra test`` by default."""
_CALLBACKS = "trainer.callbacks"
_N = 64

Planned = tuple[str, Mapping[str, Any], Sequence[Sequence[str]]]
"""Name, coordinates and commands of a cell."""


def decidable(cells: Iterable[Planned]) -> list[str]:
    """Return what a study can say about each claim, one line each."""
    results = Results("study", tuple(_imagined(*cell) for cell in cells))
    lines = []
    for claim in CLAIMS:
        checks = list(claim.checks(results))
        open_ones = sum(bool(check.missing) for check in checks)
        if len(checks) == open_ones:
            lines.append(f"no   {claim.key}: needs {claim.needs}")
        else:
            made = len(checks) - open_ones
            lack = f", {open_ones} cannot be made" if open_ones else ""
            lines.append(f"yes  {claim.key}: {counted(made, 'check')}{lack}. {claim.statement}")
    return lines


def _imagined(name: str, coordinates: Mapping[str, Any], commands: Sequence[Sequence[str]]) -> CellResult:
    """Return a cell as it may end, with half of the examples correct under every attack."""
    try:
        settings = _settings([word for command in commands for word in command[1:]])
        outcomes = {each.name: each for each in _outcomes(settings)}
    except ValueError as reason:
        raise ValueError(f"cell {name}: {reason}") from None
    seconds = {command[0]: 1.0 for command in commands}
    indices = torch.arange(_N)
    examples = dict.fromkeys(outcomes, (indices, indices % 2 == 0))
    nearest = Radii(indices, torch.full((_N,), 1 / 255, dtype=torch.float64), torch.ones(_N, dtype=torch.bool))
    return CellResult(
        name,
        Path(name),
        "",
        dict(coordinates),
        "done",
        seconds=seconds,
        outcomes=outcomes,
        per_example=examples,
        radii={each: nearest for each in outcomes if each.startswith("fmn")},
    )


def _outcomes(settings: Mapping[str, list[Any]]) -> Iterator[Measured]:
    """Yield the outcomes that a test with some settings may have."""
    half = Accuracy(0.5, _N)
    yield Measured("clean", "clean", "clean", ThreatModel("linf", 0.0), half)
    for eps in settings.get("evaluation.eps", BUDGETS):
        bounds = ThreatModel("linf", _budget(eps))
        for gradient in settings.get("evaluation.gradients", ("ste",)):
            yield Measured(f"pgd_{bounds.key}_{gradient}", "PGD", "robust", bounds, half, gradient=gradient)
    callbacks: list[_Callback] = settings.get(_CALLBACKS, [])
    if any(issubclass(each.kind, CorruptionEvaluation) for each in callbacks):
        fog = {"corruption": "fog", "severity": 1}
        yield Measured("shift_fog_1", "fog", "shift", ThreatModel("linf", 0.0), half, attack=fog)
    for number, each in enumerate(callbacks):
        if issubclass(each.kind, RadiusEvaluation):
            later = _of_attack(settings) if number == len(callbacks) - 1 else {}  # options apply to the last callback
            yield Measured(f"fmn_{number}", "FMN", "robust", _ball({**each.attack, **later}), half, gradient="ste")


class _Callback(NamedTuple):
    """A callback in a config.

    Attributes:
        kind: Class of the callback.
        attack: Arguments of its attack, as far as they are given.
    """

    kind: type
    attack: Mapping[str, Any]


def _of_attack(settings: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Return the options that set the attack of a callback."""
    spelled = {name.replace(".init_args", ""): values[-1] for name, values in settings.items() if values}
    names = {key: f"{_CALLBACKS}.attack.{key}" for key in ("eps", "norm")}
    return {key: spelled[name] for key, name in names.items() if name in spelled}


def _ball(attack: Mapping[str, Any]) -> ThreatModel:
    norm: Norm = "l2" if attack.get("norm") == "l2" else "linf"
    return ThreatModel(norm, _budget(attack.get("eps", FMN().eps), f"{_CALLBACKS}.attack.eps", norm))


def _budget(given: Any, name: str = "evaluation.eps", norm: Norm = "linf") -> float:
    try:
        eps = parse_pixels(given)
    except ValueError as reason:
        raise ValueError(f"{name}: {reason}") from None
    return pixel_length(name, eps, norm)


def _settings(words: Sequence[str]) -> dict[str, list[Any]]:
    """Return the settings of trainer and evaluation in a command, by dotted names; callbacks in order."""
    options = [(name.removeprefix("--"), value) for name, value in zip(words[::2], words[1::2], strict=True)]
    found: dict[str, list[Any]] = {}
    for name, value in sorted(options, key=lambda option: option[0] != "config"):  # other options override configs
        key = "" if name == "config" else name
        if _counts(key):
            try:
                content = read_value(value)
            except ValueError as reason:
                raise ValueError(f"{name}: {reason}") from None
            for each, values in _flat(key, located(content) if isinstance(content, str) else content, Path()):
                before = found.get(_CALLBACKS, []) if each == f"{_CALLBACKS}+" else []
                found[each.rstrip("+")] = [*before, *values]
    return found


def _counts(name: str) -> bool:
    return not name or name.partition(".")[0] in ("trainer", "evaluation")


def _flat(name: str, content: Any, directory: Path) -> Iterator[tuple[str, list[Any]]]:
    """Yield settings by dotted names, with the paths of configs replaced by their settings."""
    if name.rstrip("+") == _CALLBACKS:
        yield name, list(_callbacks(content, directory))
    elif is_config(content):
        yield from _flat(name, read_yaml(directory / content), (directory / content).parent)
    elif isinstance(content, dict):
        for key, value in content.items():
            if _counts(inner := f"{name}.{key}".lstrip(".")):
                yield from _flat(inner, value, directory)
    else:
        yield name, content if isinstance(content, list) else [content]


def _callbacks(content: Any, directory: Path) -> Iterator[_Callback]:
    for each in content if isinstance(content, list) else [content]:
        if is_config(each):
            yield from _callbacks(read_yaml(directory / each), (directory / each).parent)
            continue
        module, _, name = str(each.get("class_path") if isinstance(each, dict) else each).rpartition(".")
        with suppress(ImportError, TypeError, ValueError):
            kind = getattr(import_module(module or "qra.callbacks"), name, None)
            if isinstance(kind, type):
                attack = _arguments(_arguments(each).get("attack"))
                yield _Callback(kind, attack)


def _arguments(content: Any) -> Mapping[str, Any]:
    found = content.get("init_args") if isinstance(content, dict) else None
    return found if isinstance(found, dict) else {}
