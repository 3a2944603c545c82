"""``qra compare``: several runs side by side, example by example, and transfer between their networks."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from qra import checkpoint
from qra.attacks import PGD
from qra.checks import check_count
from qra.data import ImageDataModule
from qra.describe import describe
from qra.errors import one_line
from qra.evaluation import outcome, store
from qra.evaluation.figures import transfer_heat_map
from qra.evaluation.measured import read_measured
from qra.evaluation.outcome import SCHEMA
from qra.evaluation.robustness import is_correct
from qra.evaluation.statistics import mcnemar, shared, wilson_interval, worst_over_seeds
from qra.evaluation.transfer import TransferMatrix, transfer
from qra.files import plain
from qra.front.shipped import checkpoint_file, located_after
from qra.front.tool_arguments import add_compare
from qra.progress import EvaluationProgress
from qra.runs import completion
from qra.types import format_pixels, parse_pixels
from qra.writing import replacing, write_bytes, write_json


def read_result(path: str | Path) -> dict[str, Any]:
    """Read a ``result.json``.

    Args:
        path: The file, or the run directory that holds it.

    Raises:
        ValueError: If it is not there, cut short, or of another version.
    """
    file = _result_file(path)
    try:
        result = outcome.read_result(file)
        for name, summary in result["outcomes"].items():
            _check_outcome(file, name, summary)
    except FileNotFoundError:
        raise ValueError(f"{file}: there is no result here; qra test writes one") from None
    except ValueError as reason:
        raise ValueError(f"{reason}; write it again by qra test") from None
    return result


def _check_outcome(file: Path, name: str, summary: object) -> None:
    """Refuse an outcome that cannot be; the interval, which follows from accuracy and n, is computed anew."""
    try:
        accuracy = read_measured(name, summary).accuracy
    except ValueError as reason:
        raise ValueError(f"{file}: outcome {plain(name)}: {reason}") from None
    assert isinstance(summary, dict)  # read_measured has seen to that
    summary["interval95"] = list(accuracy.interval)


def read_examples(path: str | Path, result: Mapping[str, Any]) -> Correct:
    """Read the ``correct.npz`` beside a result: positions in the test set and correctness, by outcome.

    Args:
        path: A run directory, or a ``result.json``.
        result: What that gave.

    Raises:
        ValueError: If it is missing, damaged, or contradicts the result.
    """
    return store.read_examples(_result_file(path).parent, result)


def _result_file(path: str | Path) -> Path:
    return Path(path) / "result.json" if Path(path).is_dir() else Path(path)


Results = Mapping[str, Mapping[str, Any]]
Correct = Mapping[str, tuple[Tensor, Tensor]]
"""Of each outcome of a run, positions in the test set and whether the network was correct."""


def comparison(results: Results, worst: Mapping[str, Mapping[str, Any]] | None = None) -> Table:
    """A row for each outcome, a column for each run: accuracy with its 95 % interval.

    Args:
        results: Contents of ``result.json`` by name of the run.
        worst: What to show in a last column, by outcome; see :func:`worst_seed`.
    """
    names = list(dict.fromkeys(name for result in results.values() for name in result["outcomes"]))
    table = Table("outcome", *map(shown, results), caption="accuracy in % \\[95 % interval], number of examples")
    if worst is not None:
        table.add_column("worst seed")
    for name in names:
        cells = [_cell(result["outcomes"].get(name)) for result in results.values()]
        table.add_row(shown(name), *cells, *([] if worst is None else [_cell(worst.get(name))]))
    return table


def _cell(outcome: Mapping[str, Any] | None) -> str:
    if outcome is None:
        return "-"
    low, high = (100 * bound for bound in outcome["interval95"])
    return f"{100 * outcome['accuracy']:.1f} \\[{low:.1f}, {high:.1f}], {outcome['n']}"


def worst_seed(results: Results, found: Mapping[str, Correct]) -> dict[str, Mapping[str, Any]]:
    """The worst case of each outcome over runs that differ in their seeds.

    For one network, attacked with several seeds, an example counts as correct if it is in every run; for networks
    trained with several seeds it is the lowest accuracy.

    Args:
        results: Contents of ``result.json`` by name of the run.
        found: Outcomes of the examples by name of the run.
    """
    one_network = len({_sha256(result, "checkpoint") for result in results.values()}) == 1
    everywhere = [name for name in next(iter(found.values())) if all(name in correct for correct in found.values())]
    worst: dict[str, Mapping[str, Any]] = {}
    for name in everywhere:
        if one_network:
            _, correct = worst_over_seeds([run[name] for run in found.values()])
            if len(correct):
                worst[name] = _proportion(int(correct.sum()), len(correct))
        else:
            worst[name] = min((result["outcomes"][name] for result in results.values()), key=lambda o: o["accuracy"])
    return worst


def _proportion(count: int, n: int) -> dict[str, Any]:
    return {"accuracy": count / n, "interval95": list(wilson_interval(count, n)), "n": n}


def paired(first: Correct, second: Correct, title: str) -> Table:
    """What the second of two runs loses and gains, outcome by outcome, on the examples that both looked at.

    Args:
        first: Outcomes of one run.
        second: Outcomes of another, on the same data.
        title: Title of the table.
    """
    table = Table("outcome", title=shown(title), title_justify="left")
    for header in ("shared n", "first", "second", "lost", "gained", "p (McNemar)"):
        table.add_column(header, justify="right")
    for name in (name for name in first if name in second):
        indices, (a, b) = shared([first[name], second[name]])
        if len(indices):
            lost, gained = int((a & ~b).sum()), int((b & ~a).sum())
            shares = (f"{int(correct.sum()) / len(indices):.1%}" for correct in (a, b))
            table.add_row(shown(name), str(len(indices)), *shares, str(lost), str(gained), _p(mcnemar(lost, gained)))
    return table


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-16 else "< 1e-16"


def _compare(runs: Sequence[str], seeds: bool) -> None:
    results = {run: read_result(run) for run in runs}
    console = Console()
    for run, result in results.items():
        if "training" in result and not (training := completion.parse(result["training"])).finished:
            console.print(f"{run}: of a training that is {training}", markup=False)
    if len(results) < 2:
        console.print(comparison(results))
        return
    found = {run: read_examples(run, result) for run, result in results.items()}
    console.print(comparison(results, worst_seed(results, found) if seeds else None))
    first, *others = results
    for other in others:
        if _sha256(results[first], "data") != _sha256(results[other], "data"):
            console.print(shown(f"{first} and {other} are of different data: their examples cannot be paired"))
            continue
        console.print(paired(found[first], found[other], f"{other} (second) against {first} (first)"))
        for name in _set_otherwise(results[first], results[other]):
            console.print(shown(f"{name} was attacked with other settings in the two runs: see their result.json"))


def shown(name: str) -> str:
    """A name from a file or path as it stands: one line, no markup."""
    return escape(plain(name))


def _sha256(result: Mapping[str, Any], part: str) -> str:
    """The hash of the checkpoint or of the data that a result names."""
    about = result.get(part)
    return str(about.get("sha256")) if isinstance(about, Mapping) else str(about)


def _set_otherwise(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Outcomes of the same name whose attacks differ."""
    a, b = first["outcomes"], second["outcomes"]
    return [name for name in a if name in b and a[name].get("attack") != b[name].get("attack")]


def short_names(paths: Sequence[str]) -> list[str]:
    """Names for checkpoints: of the file, or of the run, with as much of the path as it takes to tell them apart.

    Raises:
        ValueError: If a file is given twice.
    """
    files = [Path(path).resolve().with_suffix("").parts for path in paths]
    runs = [file[:-1] if file[-1] in ("best", "last", "calibrated") else file for file in files]
    for parts in (runs, files):
        for depth in range(1, max(map(len, parts)) + 1):
            names = ["/".join(part[-depth:]) for part in parts]
            if len(set(names)) == len(names):
                return names
    raise ValueError("a checkpoint is named twice: give each once")


def _transfer(settings: Namespace, data: ImageDataModule) -> None:
    settings.run = [checkpoint_file(path) for path in settings.run]
    names = short_names(settings.run)
    attack = PGD(settings.eps, settings.eps / 4, settings.steps)
    title = f"PGD-{attack.steps}, eps {format_pixels(attack.eps)}"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    networks = [checkpoint.load(path).to(device) for path in settings.run]
    data.prepare_data()
    data.setup("test")
    batches = list(data.batches("test", data.choose("test", settings.n), device=device))
    with torch.no_grad():
        for path, network in zip(settings.run, networks, strict=True):
            if (classes := network(batches[0].x[:1]).shape[1]) != data.num_classes:
                raise ValueError(f"{path}: tells {classes} classes apart, but the data has {data.num_classes}")
    clean = torch.stack([torch.cat([is_correct(network, x, y) for x, y, _ in batches]) for network in networks]).cpu()
    rows = []
    with EvaluationProgress(shown=True) as progress:
        for row, name in enumerate(names):
            progress.start(f"{title} on {name}", len(batches))
            parts = []
            for part in transfer(networks[row], networks, attack, batches):
                progress.advance(part[row])
                parts.append(part.cpu())
            rows.append(clean & torch.cat(parts, 1))
    matrix = TransferMatrix(names, clean, torch.stack(rows))
    sources = [
        {
            "path": path,
            "sha256": checkpoint.sha256(path),
            "scheme": checkpoint.scheme_description(checkpoint.read(path)),
        }
        for path in settings.run
    ]
    about = {"schema": SCHEMA, "attack": describe(attack), "data": {"sha256": data.data_hash}, "checkpoints": sources}
    _write_transfer(Path(settings.out), {**about, **matrix.summary()}, matrix, title)


def _write_transfer(directory: Path, content: Mapping[str, Any], matrix: TransferMatrix, title: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "transfer.json", content)
    write_bytes(directory / "transfer.csv", matrix.csv().encode())
    with replacing(directory / "transfer.png") as file:
        transfer_heat_map(matrix, title).savefig(file, format="png", dpi=150)
    table = Table(
        "made on", *map(shown, matrix.names), caption=f"accuracy of each column's network in %; {title}, n = {matrix.n}"
    )
    table.add_row("clean images", *(f"{100 * value:.1f}" for value in matrix.clean_accuracy.tolist()), end_section=True)
    for row, (name, values) in enumerate(zip(matrix.names, matrix.accuracy.tolist(), strict=True)):
        cells = [f"{100 * value:.1f}" for value in values]
        cells[row] = f"[bold]{cells[row]}[/]"
        table.add_row(shown(name), *cells)
    Console().print(table, shown(f"written to {directory}/transfer.json, .csv and .png"))


def _parser() -> ArgumentParser:
    parser = ArgumentParser("qra compare", exit_on_error=False)
    add_compare(parser, parse_pixels)
    parser.add_subclass_arguments(ImageDataModule, "data", required=False)
    return parser


def main(arguments: Sequence[str]) -> None:
    """Print the comparison, or make the transfer matrix."""
    parser = _parser()
    try:
        settings = parser.parse_args(located_after("--data", arguments))
        data = parser.instantiate_classes(settings).data if settings.transfer else None
    except ArgumentError as reason:
        raise ValueError(one_line(reason)) from None
    if not settings.transfer:
        _compare(settings.run, settings.seeds)
        return
    if data is None:
        raise ValueError("give the test images by --data, as for qra test: --data data/cifar10")
    check_count("n", settings.n)
    _transfer(settings, data)
