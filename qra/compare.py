"""``qra compare``: paired comparison of runs, example by example, and transfer of attacks between their networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn

from qra import checkpoint
from qra.attacks import PGD
from qra.checks import check_count
from qra.describe import describe
from qra.evaluation.figures import transfer_heat_map, write_png
from qra.evaluation.measured import Accuracy
from qra.evaluation.outcome import SCHEMA
from qra.evaluation.radii import format_radius, paired_radii
from qra.evaluation.robustness import is_correct
from qra.evaluation.runs import Run, attacked_otherwise, read_run, worst_seed
from qra.evaluation.statistics import mcnemar, shared
from qra.evaluation.transfer import TransferMatrix, transfer
from qra.files import plain
from qra.front.shipped import checkpoint_file
from qra.front.tool_arguments import add_compare
from qra.parsing import ABSENT, parse_with_images
from qra.progress import EvaluationProgress
from qra.runs import completion
from qra.terminal import print_table
from qra.types import Batch, format_pixels, parse_pixels
from qra.writing import write_bytes, write_json

if TYPE_CHECKING:
    from qra.data import ImageDataModule


def comparison(runs: Sequence[Run], worst: Mapping[str, Accuracy] | None = None) -> Table:
    """Return a table with a row for each outcome and a column for each run: accuracy with its 95 % interval.

    Args:
        runs: Runs with distinct names.
        worst: Accuracies of an additional last column, by label of the outcome; see
            :func:`qra.evaluation.runs.worst_seed`.
    """
    labels = list(dict.fromkeys(label for run in runs for label in run.outcomes))
    table = Table("outcome", *(shown(run.name) for run in runs))
    table.caption = "accuracy in % \\[95 % interval], number of examples"
    if worst is not None:
        table.add_column("worst seed")
    for label in labels:
        found = [run.outcomes[label].accuracy if label in run.outcomes else None for run in runs]
        table.add_row(shown(label), *map(_cell, found), *([] if worst is None else [_cell(worst.get(label))]))
    table.add_section()
    table.add_row("gradients", *(shown(run.doubt.words) for run in runs), *([] if worst is None else [""]))
    return table


def _cell(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return "-"
    low, high = (100 * bound for bound in accuracy.interval)
    return f"{100 * accuracy.value:.1f} \\[{low:.1f}, {high:.1f}], {accuracy.n}"


def paired(first: Run, second: Run) -> Table:
    """Return a table of what the second of two runs loses and gains, per outcome, on the examples that both share."""
    title = f"{second.name} (second) against {first.name} (first)"
    table = Table("outcome", title=shown(title), title_justify="left")
    for header in ("shared n", "first", "second", "lost", "gained", "p (McNemar)"):
        table.add_column(header, justify="right")
    for label in (label for label in first.examples if label in second.examples):
        indices, (a, b) = shared([first.examples[label], second.examples[label]])
        if len(indices):
            lost, gained = int((a & ~b).sum()), int((b & ~a).sum())
            shares = (f"{int(correct.sum()) / len(indices):.1%}" for correct in (a, b))
            table.add_row(shown(label), str(len(indices)), *shares, str(lost), str(gained), _p(mcnemar(lost, gained)))
    return table


def paired_distances(first: Run, second: Run) -> Table:
    """Return a table of two runs' distances to the nearest adversarial image, per attack, on shared examples."""
    title = f"median smallest perturbations, {second.name} (second) against {first.name} (first)"
    table = Table("attack", title=shown(title), title_justify="left")
    for header in ("n", "first", "second", "nearer", "farther", "p (Wilcoxon)"):
        table.add_column(header, justify="right")
    for label in (label for label in first.radii if label in second.radii):
        if (pair := paired_radii(first.radii[label], second.radii[label])) is not None:
            bounds = first.outcomes[label].threat_model
            medians = (format_radius(median, bounds.norm) for median in pair.medians)
            table.add_row(shown(label), str(pair.n), *medians, str(pair.nearer), str(pair.farther), _p(pair.p))
    return table


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-16 else "< 1e-16"


def _compare(paths: Sequence[str], seeds: bool) -> None:
    runs = [read_run(path, with_examples=len(set(paths)) > 1) for path in dict.fromkeys(paths)]
    console = Console()
    for run in runs:
        if "training" in run.result and not (training := completion.parse(run.result["training"])).finished:
            console.print(f"{run.name}: from a training that is {training}", markup=False)
    first, *others = runs
    same = all(other.data == first.data for other in others)
    print_table(comparison(runs, worst_seed(runs) if seeds and others and same else None))
    for other in others:
        if first.data != other.data:
            said = f"{first.name} and {other.name} used different data: their examples cannot be paired"
            console.print(shown(said))
            continue
        print_table(paired(first, other))
        if (distances := paired_distances(first, other)).row_count:
            print_table(distances)
        for label in attacked_otherwise(first, other):
            console.print(shown(f"{label} has different attacks or settings in the two runs: see their result.json"))


def shown(name: str) -> str:
    """Return a name from a file or path for display: on one line and without markup."""
    return escape(plain(name))


def short_names(paths: Sequence[str]) -> list[str]:
    """Return names for checkpoints: that of the file or run, with as much of the path as makes them distinct.

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
    out = Path(settings.out)
    if file := next((place for place in (out, *out.parents) if place.exists() and not place.is_dir()), None):
        raise ValueError(f"{file} is a file, so nothing can be written to {out}: give another directory by --out")
    settings.run = [checkpoint_file(path) for path in settings.run]
    names = short_names(settings.run)
    attack = PGD(settings.eps, settings.eps / 4, settings.steps)
    title = f"PGD-{attack.steps}, eps {format_pixels(attack.eps)}"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    networks = [checkpoint.load(path).to(device) for path in settings.run]
    data.prepare_data()
    data.setup("test")
    for path in settings.run:
        checkpoint.check_classes_of(path, data.class_names)
    batches = list(data.batches("test", data.choose("test", settings.n), device=device))
    with torch.no_grad():
        for path, network in zip(settings.run, networks, strict=True):
            if (classes := network(batches[0].x[:1]).shape[1]) != data.num_classes:
                raise ValueError(f"{path}: has {classes} classes, but the data has {data.num_classes}")
    matrix = _crossed(names, networks, attack, batches, title)
    sources = [
        {
            "path": path,
            "sha256": checkpoint.sha256(path),
            "scheme": checkpoint.scheme_description(checkpoint.read(path)),
        }
        for path in settings.run
    ]
    about = {"schema": SCHEMA, "attack": describe(attack), "data": {"sha256": data.data_hash}, "checkpoints": sources}
    _write_transfer(out, {**about, **matrix.summary()}, matrix, title)


def _crossed(
    names: Sequence[str], networks: Sequence[nn.Module], attack: PGD, batches: Sequence[Batch], title: str
) -> TransferMatrix:
    """Attack each network, and try its adversarial images on all of them."""
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
    return TransferMatrix(names, clean, torch.stack(rows))


def _write_transfer(directory: Path, content: Mapping[str, Any], matrix: TransferMatrix, title: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "transfer.json", content)
    write_bytes(directory / "transfer.csv", matrix.csv().encode())
    write_png(directory / "transfer.png", transfer_heat_map(matrix, title))
    table = Table(
        "made on", *map(shown, matrix.names), caption=f"accuracy of each column's network in %; {title}, n = {matrix.n}"
    )
    table.add_row("clean images", *(f"{100 * value:.1f}" for value in matrix.clean_accuracy.tolist()), end_section=True)
    for row, (name, values) in enumerate(zip(matrix.names, matrix.accuracy.tolist(), strict=True)):
        cells = [f"{100 * value:.1f}" for value in values]
        cells[row] = f"[bold]{cells[row]}[/]"
        table.add_row(shown(name), *cells)
    print_table(table)
    Console().print(shown(f"written to {directory}/transfer.json, .csv and .png"), soft_wrap=True)


def main(arguments: Sequence[str]) -> None:
    """Print the comparison, or make the transfer matrix."""
    parser = ArgumentParser("qra compare", exit_on_error=False)
    add_compare(parser, parse_pixels)
    settings, data = parse_with_images(parser, arguments)
    if not settings.transfer:
        _compare(settings.run, settings.seeds)
        return
    if data is None:
        raise ValueError(ABSENT)
    check_count("n", settings.n)
    _transfer(settings, data)
