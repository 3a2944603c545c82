"""The directory of an export: its card, its program, and its models on engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from qra.deploy import card
from qra.deploy.bounds import check
from qra.deploy.card import INTEGER, MODEL, TWIN, Card
from qra.deploy.engine import RUNTIMES, Engine, OnnxRuntime, needed, read_model
from qra.deploy.evaluation import Run
from qra.deploy.program import Program

Options = Mapping[str, Mapping[str, str]]
"""Options of engines, by engine and name."""


class Folder(NamedTuple):
    """An export on disk.

    Attributes:
        directory: Directory of the export.
        card: Model card, whose hashes match the files.
        program: The program that it computes.
    """

    directory: Path
    card: Card
    program: Program

    @property
    def shipped(self) -> str:
        """Name of the model to ship."""
        return MODEL if (self.directory / MODEL).exists() else INTEGER

    @property
    def reference(self) -> str | None:
        """Name of the model whose integers are exact, if that is another one."""
        return INTEGER if self.shipped == MODEL and (self.directory / INTEGER).exists() else None


def read(directory: Path) -> Folder:
    """Read an export, whose files are untrusted.

    Raises:
        ValueError: If the directory is not an export, or one of its files was changed.
    """
    found = card.read(directory)
    if not (directory / TWIN).exists():
        raise ValueError(f"{directory}: {TWIN} is missing; export the network again")
    folder = Folder(directory, found, Program.load(directory / TWIN))
    try:
        check(folder.program)
    except ValueError as reason:
        raise ValueError(f"{directory / TWIN}: {reason}") from None
    if not (directory / folder.shipped).exists():
        raise ValueError(f"{directory}: has no model for engines; export the network again")
    for name in filter(None, (folder.shipped, folder.reference)):
        _check_model(directory / name, folder.program)
    return folder


def _check_model(path: Path, program: Program) -> None:
    """Reject a model of another program."""
    onnx, message = needed("onnx", "deploy"), needed("google.protobuf.message", "deploy")
    try:
        model = onnx.load_model_from_string(read_model(path))
    except message.DecodeError:
        raise ValueError(f"{path}: is not an ONNX model; export the network again") from None
    if program.sha256 not in {entry.value for entry in model.metadata_props if entry.key == "program"}:
        raise ValueError(f"{path}: was made from another program than {TWIN} beside it; export the network again")


def runs(
    folder: Folder, engines: Sequence[str], threads: int = 1, options: Options | None = None, defaults: bool = False
) -> list[Run]:
    """Load the models of an export on engines, to be compared with its program.

    Args:
        folder: The export.
        engines: Names of engines, each once.
        threads: Number of threads per run.
        options: Further options of engines.
        defaults: Whether each engine also runs with its default options, to measure their effect.

    Raises:
        ValueError: If an engine is unknown or not installed, or rejects a model or an option.
    """
    options = options or {}
    shipped, exact = folder.shipped, folder.reference
    codes = _written(folder.program, "qdq" if shipped == MODEL else "integer", taps=True)
    found = []
    for name in engines:
        engine = Engine(folder.directory / shipped, name, threads, options.get(name))
        found.append(Run(name, shipped, engine, Engine(codes, name, threads, options.get(name))))
    if exact is not None and OnnxRuntime.name in engines:
        engine = Engine(folder.directory / exact, OnnxRuntime.name, threads)
        found.append(Run("onnxruntime, integer form", exact, engine, attacked=False))
    for name in engines if defaults else ():
        engine = Engine(folder.directory / shipped, name, threads, options.get(name), engine_defaults=True)
        found.append(Run(f"{name}, its defaults", shipped, engine))
    return found


def contestants(folder: Folder, engines: Sequence[str]) -> Mapping[str, Callable[..., Engine]]:
    """Return what to time on each engine: the float network, then the models of an export.

    Args:
        folder: The export.
        engines: Names of engines, each once.

    Returns:
        Functions that load a model for a given number of threads, by name; the first is the baseline.
    """
    floats = _written(folder.program, "float")
    models = {"float": floats, folder.shipped: read_model(folder.directory / folder.shipped)}
    found = {
        f"{name}, {model}": partial(Engine, content, name) for model, content in models.items() for name in engines
    }
    if folder.reference is not None and OnnxRuntime.name in engines:
        reference = read_model(folder.directory / folder.reference)
        found[f"{OnnxRuntime.name}, {folder.reference}"] = partial(Engine, reference, OnnxRuntime.name)
    return found


def _written(program: Program, form: Literal["integer", "qdq", "float"], taps: bool = False) -> bytes:
    """Return the content of a model file."""
    needed("onnx", "deploy")
    from qra.deploy.onnx import to_onnx  # imports onnx

    content: bytes = to_onnx(program, form, pack=False, taps=taps).SerializeToString()
    return content


def options_of(settings: Sequence[str]) -> dict[str, dict[str, str]]:
    """Parse engine options from the command line.

    Args:
        settings: Texts such as ``onnxruntime.session.intra_op.allow_spinning=0``.

    Raises:
        ValueError: If one does not name an engine or has no value.
    """
    found: dict[str, dict[str, str]] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        engine, _, name = key.partition(".")
        if engine not in RUNTIMES or not name or not equals:
            raise ValueError(f"--set {setting}: write ENGINE.NAME=VALUE, with {' or '.join(RUNTIMES)} as the engine")
        found.setdefault(engine, {})[name] = value
    return found
