"""An HTML report about a deployed network: verdicts, accuracies, differences, and how they were measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qra.deploy.card_text import runs_table
from qra.deploy.figures import KINDS, TITLES, decisions, layers
from qra.report.markup import document, figure, table, text
from qra.report.tables import Number, Table

_COLORS = {"faithful": "supported", "unfaithful": "contradicted", "masked": "contradicted"}
_MEANING = {
    "faithful": "decides like the program that was attacked: results for the program hold for it",
    "unfaithful": "decides differently from the program: examples replayed on it say nothing about its robustness",
    "masked": "an attack without gradients finds more than those with gradients: its robustness is overstated",
}


def page(name: str, label: str, parity: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        name: Name of the network.
        label: Readable form of its quantization.
        parity: Content of ``parity.json``.
    """
    drawn = [decisions(parity), *([found] if (found := layers(parity)) else [])]
    parts = [
        f"<h1>{text(name)}: what is deployed</h1>",
        f"<p class='faint'>{text(label)}. {parity['n']:,} images of {text(str(parity['data']['class']))}, "
        f"{text(parity['threat_model']['title'])}.</p>",
        "<h2>Verdicts</h2>",
        *(_verdict(run) for run in parity["runs"]),
        "<h2>Accuracy</h2>",
        table(runs_table(parity), False),
        "<h2>Differences</h2>",
        *map(figure, drawn),
        table(decisions_table(parity)),
        *_codes(parity),
        "<h2>How it was measured</h2>",
        table(files_table(parity), False),
        *_about(parity),
        *(_options(run) for run in parity["runs"]),
    ]
    return document(f"{name}: what is deployed", parts)


def _verdict(run: Mapping[str, Any]) -> str:
    engine = run["engine"]
    title = f"{run['name']} ({engine['engine']} {engine['version']}, {run['file']})"
    return (
        f"<section class='claim {_COLORS[run['verdict']]}'><p><span class='verdict'>{text(run['verdict'])}</span> "
        f"&nbsp;{text(title)} {_MEANING[run['verdict']]}.</p><p class='faint'>{text('; '.join(run['reasons']))}.</p>"
        "</section>"
    )


def decisions_table(parity: Mapping[str, Any]) -> Table:
    """Return a table with the decisions that differ, are lost and are gained, and p, per engine and kind of images."""
    sources = [(run["name"], run["decisions"]) for run in parity["runs"]]
    if parity["fake_quantized"] is not None:
        sources.insert(0, ("the program, against the fake-quantized network", parity["fake_quantized"]["decisions"]))
    rows = tuple(
        (
            name,
            TITLES[kind].replace("\n", " "),
            str(found[kind]["n"]),
            Number(found[kind]["differ"], 0),
            _interval(found[kind]["differ_interval95"]),
            Number(found[kind]["lost"], 0),
            Number(found[kind]["gained"], 0),
            f"{found[kind]['mcnemar_p']:.2g}",
        )
        for name, found in sources
        for kind in KINDS
    )
    columns = ("run by", "images", "n", "differ", "95 % interval", "lost", "gained", "p (McNemar)")
    note = "Decisions compared with those of the program, image by image; the interval is for the share that differs."
    return Table("decisions", "Decisions", columns, rows, note)


def _interval(interval: Any) -> str:
    return "-" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


def codes_tables(parity: Mapping[str, Any]) -> Iterator[Table]:
    """Yield a table for each step from the fake-quantized network to an engine, with a row per layer."""
    steps = [(f"program to {run['name']}", run["layers"]) for run in parity["runs"] if run["layers"]]
    if parity["fake_quantized"] is not None:
        steps.insert(0, ("fake-quantized network (float64) to program", parity["fake_quantized"]["layers"]))
    for title, found in steps:
        rows = tuple(
            (layer, f"{each['codes']:,}", f"{each['differ']:,}", f"{each['share']:.2g}", str(each["largest"]))
            for layer, each in found.items()
        )
        columns = ("layer", "codes", "differ", "share", "largest difference")
        yield Table("codes", f"Codes, {title}", columns, rows)


def _codes(parity: Mapping[str, Any]) -> Iterator[str]:
    for found in codes_tables(parity):
        yield f"<details><summary>{text(found.title)}</summary>{table(found, False)}</details>"


def files_table(parity: Mapping[str, Any]) -> Table:
    """Return a table of the export's files with sizes and hashes."""
    rows = tuple((name, Number(each["bytes"] / 1024), each["sha256"]) for name, each in parity["files"].items())
    checkpoint = parity["checkpoint"]
    rows += ((f"checkpoint {checkpoint.get('file')}", Number(None), str(checkpoint.get("sha256"))),)
    return Table("files", "Files", ("file", "KiB", "sha256"), rows)


def _about(parity: Mapping[str, Any]) -> Iterator[str]:
    lines = [
        f"Command: {' '.join(parity['command'])}",
        f"{parity['date']}, qra {parity['version']}, commit {parity['commit'] or 'not known'}",
        f"{parity['processor']}; instructions: {', '.join(parity['instructions']) or 'not known'}",
        f"Data: {parity['data']['class']}, sha256 {parity['data']['sha256']}",
        f"Attacks: {parity['white_box']['title']} and full-length {parity['full_length']['title']} on the program, "
        f"with bytes inside; {parity['square']['title']} on each engine",
    ]
    if parity["fake_quantized"] is None:
        lines.append("The exported network was not compared: give its checkpoint by --ckpt_path")
    yield "".join(f"<p class='faint'>{text(line)}.</p>" for line in lines)


def _options(run: Mapping[str, Any]) -> str:
    options = tuple((name, value) for name, value in run["engine"]["options"].items())
    shown = table(Table("options", "", ("option", "value"), options), False)
    return f"<details><summary>{text(run['name'])}: every option</summary>{shown}</details>"
