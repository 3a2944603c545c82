"""The result files and tables of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from rich.markup import escape
from rich.table import Table

from qra import checkpoint, environment
from qra.callbacks.base import Order, PipelineCallback, tests_another_network
from qra.callbacks.measurement import outcomes_of
from qra.data import data_of
from qra.describe import describe
from qra.evaluation import store
from qra.evaluation.doubt import doubt_of
from qra.evaluation.identity import network_id
from qra.evaluation.measured import Measured
from qra.evaluation.outcome import Outcome
from qra.evaluation.robustbench import model_info
from qra.files import plain
from qra.modules import ImageClassifier
from qra.precision import float32
from qra.quant import Cost, QuantScheme, cost
from qra.quant.cost import float_layers, label
from qra.running import callbacks_of, is_rehearsal
from qra.runs import completion
from qra.terminal import console, print_table
from qra.writing import write_json


class ResultWriter(PipelineCallback):
    """Write the settings and results of a run into its directory.

    ``fit`` writes ``run.json``, the reproducibility sheet. ``test``, and ``fit`` if something was measured at its end,
    write ``result.json`` (each outcome's accuracy, interval, n and attack; scheme and cost of the network, checkpoint,
    data, versions), ``robustbench.json`` (the same in the fields of that benchmark), ``correct.npz`` (the outcomes per
    example), and print a table.
    """

    order = Order.WRITE

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            write_json(_directory(trainer) / "run.json", _sheet(trainer, pl_module))
        self._started = time.monotonic()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.monotonic()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module, str(trainer.ckpt_path) if trainer.ckpt_path else None)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassifier)
        self._write(trainer, pl_module, pl_module.weights)

    def _write(self, trainer: Trainer, pl_module: LightningModule, path: str | None) -> None:
        outcomes = outcomes_of(trainer)
        if not trainer.is_global_zero or not outcomes or is_rehearsal(trainer):
            return
        directory = _directory(trainer)
        content, test = self._about(trainer, pl_module, outcomes, path)
        gathered, said = store.gather(directory, content, outcomes.values(), test)
        doubt = doubt_of({**gathered.content, "outcomes": gathered.summaries})
        gathered.content["doubt"] = doubt.summary()
        result = store.write(directory, gathered)
        architecture = (describe(pl_module.network) or {}).get("class_path")
        write_json(directory / "robustbench.json", model_info(result, directory.resolve().name, architecture))
        found = table(gathered.measured())
        found.caption = f"gradients: {doubt.words}"
        lines = [*_remarks(content), said, f"written to {directory / 'result.json'}"]
        if first := _unfinished(result):
            console().print(escape(first), style="bold", soft_wrap=True)
        print_table(found)
        console().print(*(escape(line) for line in lines if line), sep="\n", soft_wrap=True)

    def _about(
        self, trainer: Trainer, pl_module: LightningModule, outcomes: Mapping[str, Outcome], path: str | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return all the facts about network, data and test, and separately those about the test."""
        assert isinstance(pl_module, ImageClassifier)
        with float32(pl_module.device):  # like all measurements
            sheet = _sheet(trainer, pl_module)
        sha256 = checkpoint.sha256(path) if path else None
        scheme, calibration = describe(pl_module.scheme), pl_module.calibration
        made_here = calibration is None or (trainer.state.fn == "test" and pl_module.weights is not None)
        changed = tests_another_network(trainer) and made_here  # a record of calibration does not say on which images
        about = {
            "network": network_id(pl_module.network, sha256, scheme, calibration, changed),
            "architecture": describe(pl_module.network),
            "checkpoint": {"path": path, "sha256": sha256} if path else None,
            "scheme": scheme,
            "calibration": calibration,
            **_scope(trainer, outcomes, path),
            **_network(trainer, pl_module),
            **_records(trainer),
        }
        when = datetime.now(UTC).isoformat(timespec="seconds")
        test = {"date": when, "seconds": round(time.monotonic() - self._started, 1), **sheet}
        return {**about, **test}, {key: value for key, value in test.items() if key not in ("data", "module")}


def table(outcomes: Sequence[Measured]) -> Table:
    """Return a table of outcomes for the terminal, without those on shifted images, which have their own table."""
    rounded = any(outcome.rounded_afterwards is not None for outcome in outcomes)
    result = Table("attack")
    for name in ("eps", "accuracy", "95% interval", *(["rounded afterwards"] if rounded else []), "n"):
        result.add_column(name, justify="right")
    for outcome in (each for each in outcomes if each.role != "shift"):
        accuracy, bounds = outcome.accuracy, outcome.threat_model
        low, high = accuracy.interval
        eps = bounds.title.replace("eps ", "") if outcome.attack or bounds.eps else ""
        value = "" if outcome.rounded_afterwards is None else f"{outcome.rounded_afterwards:.2%}"
        cells = (eps, f"{accuracy.value:.2%}", f"{low:.1%} - {high:.1%}", *([value] if rounded else []))
        style = "bold" if outcome.role == "worst" else ""
        indent = "  " if outcome.role == "part" else ""
        result.add_row(indent + escape(plain(outcome.kind)), *cells, str(accuracy.n), style=style)
    return result


def _scope(trainer: Trainer, outcomes: Mapping[str, Outcome], path: str | None) -> dict[str, Any]:
    """Return whether the weights are random and, if a test left images out, how many of how many it used."""
    is_test = trainer.state.fn == "test"
    found: dict[str, Any] = {"untrained": is_test and path is None}
    total = data_of(trainer).size("test")
    seen = [outcome.n for outcome in outcomes.values() if outcome.role == "clean"]
    if is_test and seen and seen[0] < total:
        found["partial"] = {"images": seen[0], "of": total}
    return found


def _remarks(found: Mapping[str, Any]) -> list[str]:
    """Return what limits the scope of a result, one line per limitation."""
    lines = []
    if found["untrained"]:
        lines.append("untrained: the weights are random")
    if "partial" in found:
        lines.append("partial test: the first {images} of {of} test images".format(**found["partial"]))
    return lines


def _records(trainer: Trainer) -> dict[str, Any]:
    """Return the entries of all callbacks."""
    return {
        key: value for callback in callbacks_of(trainer, PipelineCallback) for key, value in callback.record().items()
    }


def _unfinished(result: Mapping[str, Any]) -> str | None:
    """Return what a reader of the table must know first: that the training is unfinished; None if it is not."""
    training = completion.parse(result["training"]) if "training" in result else None
    return None if training is None or training.finished else f"of a training that is {training}"


def _directory(trainer: Trainer) -> Path:
    directory = Path(trainer.default_root_dir)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _sheet(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    data = data_of(trainer)
    return {
        "module": type(pl_module).__qualname__,
        "data": {"class": type(data).__qualname__, "sha256": data.data_hash, "made_up": data.made_up},
        "world_size": trainer.world_size,
        **environment.sheet(pl_module.device),
    }


def _network(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """Return how the network is quantized, and its cost per image."""
    assert isinstance(pl_module, ImageClassifier)
    found = cost(pl_module.network, data_of(trainer).image_shape)
    known = {name: vars(pl_module.network).get(name) for name in ("outputs", "attack_copy")}
    return {
        **_precision(pl_module.scheme, found),
        **{name: value for name, value in known.items() if value is not None},
    }


def _precision(scheme: QuantScheme | None, found: Cost) -> dict[str, Any]:
    """Return a network's precision and cost, and which of its layers are float."""
    names = ("parameters", "size_in_bits", "multiply_adds", "bit_ops", "uncounted")
    costs = {name: getattr(found, name) for name in names} | {"layers": found.parts}
    if scheme is None:
        return {"cost": costs}
    floats = float_layers(scheme, found)
    return {"label": label(scheme, found), "cost": costs | {"float_layers": len(floats)}, "float_layers": floats}
