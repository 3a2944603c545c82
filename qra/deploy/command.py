"""``qra deploy``: the decisions of an export on engines, its robustness as deployed, and its speed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.markup import escape

from qra import checkpoint, environment
from qra.attacks import PGD, Attack, AutoAttack, RoundingCascade
from qra.checks import check_count
from qra.deploy import card, folder
from qra.deploy.card_text import runs_table, speed_table
from qra.deploy.engine import check_threads
from qra.deploy.evaluation import Evaluation, FakeQuantized
from qra.deploy.folder import Folder, options_of
from qra.deploy.page import page
from qra.deploy.program import Program
from qra.deploy.robustness import ImageChunks, attack_program, threat, white_box_images
from qra.deploy.speed import bench
from qra.deploy.twin import IntegerNetwork
from qra.evaluation.chunks import CHUNKS, shuffled
from qra.evaluation.outcome import examples_id
from qra.evaluation.protocol import Protocol
from qra.evaluation.robustness import members
from qra.files import plain
from qra.front.shipped import checkpoint_file
from qra.front.tool_arguments import add_deploy_bench, add_deploy_test
from qra.parsing import ABSENT, network_of, parse, parse_with_images
from qra.precision import float32
from qra.progress import ChunkProgress
from qra.terminal import print_table
from qra.types import parse_pixels
from qra.version import __version__
from qra.writing import write_arrays, write_bytes, write_json

if TYPE_CHECKING:
    from qra.data import ImageDataModule

SCHEMA = 1
"""Version of ``parity.json``."""
CHUNK = 50
"""Number of images that are attacked together."""


def main(arguments: Sequence[str]) -> None:
    """Run ``qra deploy test`` or ``qra deploy bench``."""
    command = arguments[0] if arguments else ""
    parser = ArgumentParser(f"qra deploy {command}", exit_on_error=False)
    if command == "test":
        add_deploy_test(parser, parse_pixels)
        settings, data = parse_with_images(parser, arguments[1:])
        exported = folder.read(Path(settings.directory))
        if data is None:
            raise ValueError(ABSENT)
        _test(exported, settings, data)
    elif command == "bench":
        add_deploy_bench(parser)
        settings = parse(parser, arguments[1:])
        _bench(folder.read(Path(settings.directory)), settings)
    else:
        raise ValueError("qra deploy takes test or bench; see qra deploy --help")


def _test(exported: Folder, settings: Namespace, data: ImageDataModule) -> None:
    check_count("n", settings.n)
    check_threads(settings.threads)
    torch.set_num_threads(settings.threads)
    runs = folder.runs(exported, settings.engines, settings.threads, options_of(settings.set), settings.engine_defaults)
    data.prepare_data()
    data.setup("test")
    fake = _fake_quantized(exported, settings.ckpt_path, settings.config)
    _check_data(exported, data)
    protocol = Protocol(_white_box(settings), pixels="bytes")
    evaluation = Evaluation(IntegerNetwork(exported.program).eval(), runs, threat(protocol, settings.queries), fake)
    _attack(evaluation, exported.program, data, settings.n, exported.directory)
    content = {**_about(exported, data, evaluation), **evaluation.content()}
    write_arrays(exported.directory / "decisions.npz", {k: v.numpy() for k, v in evaluation.decisions().items()})
    write_json(exported.directory / "parity.json", content)
    write_bytes(exported.directory / "parity.html", page(exported.card.name, exported.card.label, content).encode())
    card.write(exported.directory, replace(exported.card, deployed=_without_details(content)))
    console, table = Console(), runs_table(content)
    print_table(table.terminal())
    for run in content["runs"]:
        _say(console, f"{run['name']}: {run['verdict']}: {'; '.join(run['reasons'])}")
    _say(console, table.note)
    _say(console, f"written to {exported.directory / 'parity.html'}, parity.json, decisions.npz and {card.TEXT}")


def _say(console: Console, line: str) -> None:
    console.print(escape(plain(line)), soft_wrap=True, highlight=False)


def _white_box(settings: Namespace) -> Attack:
    if settings.cascade:
        return RoundingCascade(settings.eps)
    if settings.autoattack:
        return AutoAttack(settings.eps)
    return PGD(settings.eps, settings.eps / 4, 20, early_stop=True)


def _fake_quantized(exported: Folder, path: str | None, config: str | None) -> FakeQuantized | None:
    """Return the network that was exported.

    Raises:
        ValueError: If the checkpoint is not the exported one, or there is only a config.
    """
    if path is None:
        if config is not None:
            raise ValueError("--config says how to make the network of --ckpt_path: give both, or neither")
        return None
    path = checkpoint_file(path)
    network = checkpoint.load(path, network_of(config))
    if checkpoint.sha256(path) != exported.card.checkpoint.get("sha256"):
        raise ValueError(
            f"{path}: is not the checkpoint that {exported.directory} was exported from (its sha256 differs)"
        )
    return FakeQuantized(network, exported.program)


def _check_data(exported: Folder, data: ImageDataModule) -> None:
    expected, found = exported.program.image_shape, data.image_shape
    if tuple(found) != tuple(expected):
        raise ValueError(
            f"the images are {tuple(found)}, but {exported.directory} was exported for {tuple(expected)}: export the "
            "network for this resolution"
        )
    classes = len(exported.program.tensors["layers.logits.factors"][0])
    if classes != data.num_classes:
        raise ValueError(f"{exported.directory} has {classes} classes, but the data has {data.num_classes}")


def _attack(evaluation: Evaluation, program: Program, data: ImageDataModule, n: int, directory: Path) -> None:
    protocol = evaluation.what.white_box
    indices = data.choose("test", n)
    chunks = torch.split(shuffled(indices, 0), CHUNK)
    depends = {
        "attack": protocol.settings(),
        **protocol.fields(),
        "data": data.data_hash,
        "program": program.sha256,
        "version": __version__,
    }
    files = ImageChunks(directory / CHUNKS, protocol.name, depends, chunks, len(members(protocol.attack)))
    with float32(torch.device("cpu")), ChunkProgress(protocol.words, len(chunks), shown=True) as progress:
        for number, positions in enumerate(chunks):
            batch = data.batch("test", positions, torch.device("cpu"))
            progress.start(len(positions))
            x_adv = white_box_images(evaluation.program, protocol, files, batch, number, progress.watch)
            evaluation.add(number, attack_program(evaluation.program, evaluation.what, batch, x_adv))
            progress.finish()


def _about(exported: Folder, data: ImageDataModule, evaluation: Evaluation) -> dict[str, Any]:
    """Return how and from what the figures were made, ready for JSON."""
    return {
        "schema": SCHEMA,
        "command": ["qra", *sys.argv[1:]],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "commit": environment.commit(),
        "versions": environment.versions(),
        "processor": environment.processor(),
        "instructions": environment.instructions(),
        "data": {"class": type(data).__qualname__, "sha256": data.data_hash},
        "n": len(evaluation.indices),
        "examples": examples_id(evaluation.indices.sort().values),
        "checkpoint": dict(exported.card.checkpoint),
        "program": exported.program.sha256,
        "files": card.files(exported.directory),
    }


def _without_details(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content for the card, without individual layers and engine options."""
    runs = [{key: run[key] for key in ("name", "file", "verdict", "reasons", "clean", "robust", "square", "decisions")}
            | {"engine": {key: run["engine"][key] for key in ("engine", "version", "engine_defaults", "threads")}}
            for run in content["runs"]]  # fmt: skip
    return {**{key: value for key, value in content.items() if key not in ("fake_quantized", "files")}, "runs": runs}


def _bench(exported: Folder, settings: Namespace) -> None:
    for value in settings.batch:
        check_count("batch", value)
    for value in settings.threads:
        check_threads(value)
    check_count("rounds", settings.rounds)
    makers = folder.contestants(exported, settings.engines)
    found = bench(makers, settings.batch, settings.threads, settings.rounds)
    about = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": environment.processor(),
        "instructions": environment.instructions(),
        "vnni": environment.has_vnni(),
    }
    speed = {**about, **found}
    write_json(exported.directory / "speed.json", speed)
    card.write(exported.directory, replace(exported.card, speed=speed))
    console, table = Console(), speed_table(speed)
    print_table(table.terminal())
    _say(console, table.note)
    if not speed["vnni"]:
        _say(console, "this processor has no VNNI: 8-bit integers are not faster than float32 here")
    for name, file in card.files(exported.directory).items():
        _say(console, f"{name}: {file['bytes'] / 1024:.1f} KiB")
