"""The card of a network as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qra.deploy.evaluation import accuracy_of
from qra.evaluation.doubt import doubt_of
from qra.evaluation.measured import read_measured
from qra.files import plain
from qra.report.tables import Entry, Number, Table, markdown_text

KIB = 1024
_MEANINGS = {
    "model.onnx": "the model to ship",
    "model.integer.onnx": "the same network in integers only, exact on onnxruntime: the reference",
    "twin.safetensors": "the same network for attacks: qra test --ckpt_path twin.safetensors",
}


def markdown(content: Mapping[str, Any], level: int = 1) -> str:
    """Return the card as a page, or as a section of one.

    Args:
        content: Content of ``card.json``.
        level: Heading level of its title.
    """
    exported = bool(content["export"])
    title = "#" * level
    sections = {
        "Trained": _trained(content),
        "Files" if exported else "File": [_files(content["files"]).markdown()],
        "Cost of one image": _cost(content, exported),
        "Accuracy of the checkpoint": _tested(content["tested"]) if content["tested"] else (),
        "Deployed accuracy": _accuracy(content["deployed"]) if exported else (),
        "Speed": _speed(content["speed"]) if exported else (),
        "Limits": [f"- {markdown_text(sentence)}" for sentence in content["limits"]],
    }
    written = {name: "\n".join(lines) for name, lines in sections.items()}
    parts = [f"{title} {markdown_text(content['name'])}\n", *_about(content, exported)]
    parts += [f"{title}# {name}\n\n{text}" for name, text in written.items() if text]
    return "\n".join(parts) + "\n"


def _about(content: Mapping[str, Any], exported: bool) -> Iterator[str]:
    channels, height, width = content["image_shape"]
    if exported:
        yield "Written by `qra export`, `qra deploy test` and `qra deploy bench`; do not edit it, run them again.\n"
        taken = "float32 in [0, 1], rounded to bytes" if content["export"].get("input") == "float" else "uint8"
        inputs = f"Input `image`: {taken}, (n, {channels}, {height}, {width}). Output `logits`: float32."
    else:
        inputs = f"Input: pixels in [0, 1], float32, (n, {channels}, {height}, {width}). Output: logits."
    yield f"{markdown_text(content['label'])}. {inputs}\n"


def _absent(done: str, command: str) -> str:
    return f"Not {done} yet: `qra deploy {command} DIR`.\n"


def _trained(content: Mapping[str, Any]) -> Iterator[str]:
    network, checkpoint = content["network"] or {"class_path": "not described"}, content["checkpoint"]
    settings = ", ".join(f"{name}={value}" for name, value in network.get("init_args", {}).items())
    made = f"{network['class_path']}({settings})" if settings else network["class_path"]
    yield f"- network: `{_code(made)}`, {content['parameters']:,} parameters"
    yield f"- checkpoint: `{_code(checkpoint.get('file'))}`, sha256 `{_code(checkpoint.get('sha256'))}`"
    for name, value in content["training"].items():
        if name != "command":
            yield f"- {markdown_text(name)}: {markdown_text(value)}"
    if lines := content["training"].get("command"):
        yield "\n```console\n$ " + "\n    ".join(_code(line) for line in lines) + "\n```"
    yield ""


def _files(files: Mapping[str, Any]) -> Table:
    rows = [
        (name, _MEANINGS.get(name, "the checkpoint"), Number(about["bytes"] / KIB), about["sha256"])
        for name, about in files.items()
    ]
    return Table("files", "Files", ("file", "what it is", "KiB", "sha256"), tuple(rows))


def _cost(content: Mapping[str, Any], exported: bool) -> Iterator[str]:
    counts = content["multiply_adds"]
    total = sum(counts.values()) or 1
    rows = tuple((kind, f"{count:,}", f"{100 * count / total:.1f} %") for kind, count in counts.items())
    yield Table("cost", "Multiply-adds", ("multiply-adds", "number", "share"), rows).markdown()
    if content["cost"]:
        size, bit_ops = content["cost"]["size_in_bits"] / 8 / KIB, content["cost"]["bit_ops"] / 1e9
        yield f"Parameters at their bits: {size:.0f} KiB. {bit_ops:.2f} GBitOPs.\n"
    layers = content["saturates_without_vnni"]
    if layers:
        shown = ", ".join(map(str, layers[:5])) + (f" and {len(layers) - 5} more" if len(layers) > 5 else "")
        count = f"{len(layers)} layers" if len(layers) > 1 else "1 layer"
        yield f"Sums of {count} may saturate on x86 processors without VNNI: {markdown_text(shown)}.\n"
    elif exported:
        yield "No sum can saturate on x86 processors without VNNI.\n"


def _tested(tested: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines about what ``qra test`` measured on the checkpoint."""
    found = [read_measured(name, summary) for name, summary in tested["outcomes"].items()]
    found.sort(key=lambda each: (each.threat_model.pixels == "bytes", each.threat_model, each.role == "worst"))
    bounds = [each.threat_model.title if each.threat_model.eps else "" for each in found]
    rows = tuple((each.kind, title, each.accuracy) for each, title in zip(found, bounds, strict=True))
    yield Table("tested", "Accuracy", ("images", "bounds", "accuracy"), rows).markdown()
    doubt, data = doubt_of(tested), tested["data"]
    reasons = f" ({'; '.join(doubt.reasons)})" if doubt.reasons else ""
    yield f"Gradients: {markdown_text(doubt.words + reasons)}. Settings of each attack are in the card as JSON.\n"
    when = "; ".join(dict.fromkeys(_when(test) for test in tested["tests"]))
    yield markdown_text(f"Data: {data.get('class')}, sha256 {data.get('sha256')}. Tested {when}.") + "\n"


def _when(test: Mapping[str, Any]) -> str:
    versions = test["versions"]
    return f"{test['date'][:10]} on {test['device']}, torch {versions['torch']}, qra {versions['qra']}"


def runs_table(deployed: Mapping[str, Any]) -> Table:
    """Return a table with the clean accuracy, robust accuracy and verdict of the program and of each engine.

    Args:
        deployed: Results of ``qra deploy test``, see :mod:`qra.deploy.evaluation`.
    """
    program = deployed["program"]
    rows: list[tuple[Entry, ...]] = [
        ("the program (its twin)", accuracy_of(program["clean"]), accuracy_of(program["robust"]), "-")
    ]
    rows += [
        (run["name"], accuracy_of(run["clean"]), accuracy_of(run["robust"]), run["verdict"]) for run in deployed["runs"]
    ]
    note = (
        f"{deployed['threat_model']['title']}. Robust: right under {deployed['white_box']['title']} on the program, on "
        f"all its images on the engine too, and under {deployed['square']['title']} on the engine."
    )
    if alone := [run["name"] for run in deployed["runs"] if run["square"] is None]:
        note += f" {', '.join(alone)}: replayed, without Square."
    return Table("accuracy", "Deployed accuracy", ("run by", "clean", "robust", "verdict"), tuple(rows), note)


def _accuracy(deployed: Mapping[str, Any] | None) -> Sequence[str]:
    if not deployed:
        return [_absent("measured", "test")]
    table = runs_table(deployed)
    lines = [table.markdown(), f"{markdown_text(table.note)}\n"]
    lines += [f"- {markdown_text(run['name'])}: {markdown_text('; '.join(run['reasons']))}" for run in deployed["runs"]]
    data = deployed["data"]
    about = f"Data: {data.get('class')}, sha256 {data.get('sha256')}; {deployed['date']}, {deployed['processor']}."
    return [*lines, "", markdown_text(about), ""]


def speed_table(speed: Mapping[str, Any]) -> Table:
    """Return a table with a row for each model, engine, batch size and number of threads.

    Args:
        speed: Results of ``qra deploy bench``, see :mod:`qra.deploy.speed`.
    """
    rows = tuple(
        (
            row["name"],
            str(row["batch"]),
            str(row["threads"]),
            Number(row["ms"], 2),
            f"{row['ms_low']:.2f} to {row['ms_high']:.2f}",
            Number(row["images_per_second"], 0),
            Number(row["times_as_fast"], 2),
            f"{row['times_low']:.2f} to {row['times_high']:.2f}",
        )
        for row in speed["rows"]
    )
    columns = ("run by", "batch", "threads", "ms", "lowest to highest", "images/s", "times as fast", "within rounds")
    note = f"Medians of {speed['rounds']} rounds in turns; times as fast as {speed['base']}. {speed['processor']}."
    return Table("speed", "Speed", columns, rows, note)


def _speed(speed: Mapping[str, Any] | None) -> Sequence[str]:
    if not speed:
        return [_absent("timed", "bench")]
    table = speed_table(speed)
    return [table.markdown(), f"{markdown_text(table.note)}\n"]


def _code(text: object) -> str:
    """Return a text to put between backticks, without the backticks that it contains."""
    return plain(text).replace("`", "")
