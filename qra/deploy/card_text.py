"""The card of an exported network as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qra.deploy.evaluation import accuracy_of
from qra.report.tables import Entry, Number, Table, markdown_text

KIB = 1024
_MEANINGS = {
    "model.onnx": "the model to ship",
    "model.integer.onnx": "the same network in integers alone, exact on onnxruntime: the reference",
    "twin.safetensors": "the same network for attacks: `qra test --ckpt_path twin.safetensors`",
}


def markdown(content: Mapping[str, Any]) -> str:
    """The page.

    Args:
        content: Content of ``card.json``.
    """
    channels, height, width = content["image_shape"]
    parts = [
        f"# {markdown_text(content['name'])}\n",
        "Written by `qra export`, `qra deploy test` and `qra deploy bench`; do not edit it, run them again.\n",
        f"{markdown_text(content['label'])}. Input `image`: {_input(content)}, (n, {channels}, {height}, {width}). "
        "Output `logits`: float32.\n",
        "## Trained\n",
        *_trained(content),
        "## Files\n",
        _files(content["files"]).markdown(),
        "## Cost of one image\n",
        *_cost(content),
        "## Deployed accuracy\n",
        *(_accuracy(content["deployed"]) if content["deployed"] else [_absent("measured", "test")]),
        "## Speed\n",
        *(_speed(content["speed"]) if content["speed"] else [_absent("timed", "bench")]),
        "## Limits\n",
        *(f"- {markdown_text(sentence)}" for sentence in content["limits"] or ["None is known."]),
    ]
    return "\n".join(parts) + "\n"


def _absent(done: str, command: str) -> str:
    return f"Not {done} yet: `qra deploy {command} DIR`.\n"


def _input(content: Mapping[str, Any]) -> str:
    if content["export"].get("input") == "float":
        return "float32 in [0, 1], which is rounded to bytes"
    return "uint8"


def _trained(content: Mapping[str, Any]) -> Iterator[str]:
    network = (content["network"] or {}).get("class_path", "not described")
    checkpoint = content["checkpoint"]
    yield f"- network: `{_code(network)}`, {content['parameters']:,} parameters"
    yield f"- checkpoint: `{_code(checkpoint.get('file'))}`, sha256 `{_code(checkpoint.get('sha256'))}`"
    for name, value in content["training"].items():
        yield f"- {markdown_text(name)}: {markdown_text(value)}"
    yield ""


def _files(files: Mapping[str, Any]) -> Table:
    rows = [
        (name, _MEANINGS.get(name, "").replace("`", ""), Number(about["bytes"] / KIB), about["sha256"])
        for name, about in files.items()
    ]
    return Table("files", "Files", ("file", "what it is", "KiB", "sha256"), tuple(rows))


def _cost(content: Mapping[str, Any]) -> Iterator[str]:
    counts = content["multiply_adds"]
    total = sum(counts.values()) or 1
    rows = tuple((kind, f"{count:,}", f"{100 * count / total:.1f} %") for kind, count in counts.items())
    yield Table("cost", "Multiply-adds", ("multiply-adds", "number", "share"), rows).markdown()
    layers = content["saturates_without_vnni"]
    if layers:
        shown = ", ".join(map(str, layers[:5])) + (f" and {len(layers) - 5} more" if len(layers) > 5 else "")
        yield f"Sums of {len(layers)} layers may saturate on x86 processors without VNNI: {markdown_text(shown)}.\n"
    else:
        yield "No sum can saturate on x86 processors without VNNI.\n"


def runs_table(deployed: Mapping[str, Any]) -> Table:
    """A row for the program and for each engine: accuracy on clean images, robust accuracy and verdict.

    Args:
        deployed: What ``qra deploy test`` found, see :mod:`qra.deploy.evaluation`.
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
    return Table("accuracy", "Deployed accuracy", ("run by", "clean", "robust", "verdict"), tuple(rows), note)


def _accuracy(deployed: Mapping[str, Any]) -> Sequence[str]:
    table = runs_table(deployed)
    lines = [table.markdown(), f"{markdown_text(table.note)}\n"]
    lines += [f"- {markdown_text(run['name'])}: {markdown_text('; '.join(run['reasons']))}" for run in deployed["runs"]]
    data = deployed["data"]
    about = f"Data: {data.get('class')}, sha256 {data.get('sha256')}; {deployed['date']}, {deployed['processor']}."
    return [*lines, "", markdown_text(about), ""]


def speed_table(speed: Mapping[str, Any]) -> Table:
    """A row for each model, engine, batch size and number of threads.

    Args:
        speed: What ``qra deploy bench`` found, see :mod:`qra.deploy.speed`.
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


def _speed(speed: Mapping[str, Any]) -> Sequence[str]:
    table = speed_table(speed)
    return [table.markdown(), f"{markdown_text(table.note)}\n"]


def _code(text: object) -> str:
    return "".join(sign for sign in markdown_text(str(text)) if sign not in "`\\")
