"""The files and tables of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qra import checkpoint, environment
from qra.callbacks.base import Order, PipelineCallback
from qra.callbacks.evaluation import Measurement
from qra.callbacks.scope import remarks, scope
from qra.data import data_of
from qra.describe import describe
from qra.evaluation.figures import robustness_curve
from qra.evaluation.outcome import SCHEMA, Outcome, write_correct
from qra.evaluation.robustbench import model_info
from qra.modules import ImageClassifier
from qra.precision import float32
from qra.quant import cost
from qra.runs import completion
from qra.types import format_pixels
from qra.writing import write_json


class ResultWriter(PipelineCallback):
    """Write what a run was and what it found into the run directory.

    ``fit`` writes ``run.json``, the reproducibility sheet. ``test``, and ``fit`` if something was measured at its end,
    writes ``result.json`` (each outcome's accuracy, interval, n and attack; scheme and cost of the network, checkpoint,
    data, versions), ``robustbench.json`` (the same in the fields of that benchmark), ``correct.npz`` (each example's
    outcome), the robustness curve and the accuracies to TensorBoard, and a table to the terminal.
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
        outcomes = _outcomes(trainer)
        if not trainer.is_global_zero or not outcomes or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        directory = _directory(trainer)
        write_correct(directory / "correct.npz", outcomes)
        result = self._result(trainer, pl_module, outcomes, path)
        write_json(directory / "result.json", result)
        architecture = (describe(pl_module.network) or {}).get("class_path")
        write_json(directory / "robustbench.json", model_info(result, directory.resolve().name, architecture))
        _to_tensorboard(trainer, outcomes, path)
        found = table(outcomes)
        found.title = _doubt(result)
        Console().print(found, *remarks(result), escape(f"written to {directory / 'result.json'}"))

    def _result(
        self, trainer: Trainer, pl_module: LightningModule, outcomes: Mapping[str, Outcome], path: str | None
    ) -> dict[str, Any]:
        with float32(pl_module.device):  # as everything was measured
            sheet = _sheet(trainer, pl_module)
        return {
            "schema": SCHEMA,
            "outcomes": {name: outcome.summary() for name, outcome in outcomes.items()},
            "checkpoint": {"path": path, "sha256": checkpoint.sha256(path)} if path else None,
            "seconds": round(time.monotonic() - self._started, 1),
            **scope(trainer, outcomes, path),
            **_network(trainer, pl_module),
            **_records(trainer),
            **sheet,
        }


def table(outcomes: Mapping[str, Outcome]) -> Table:
    """A table of outcomes for the terminal."""
    result = Table("attack", "eps", "accuracy", "95% interval", "as bytes", "n")
    for name in ("eps", "accuracy", "95% interval", "as bytes", "n"):
        result.columns[[column.header for column in result.columns].index(name)].justify = "right"
    for outcome in outcomes.values():
        low, high = outcome.interval
        eps = format_pixels(outcome.eps) if outcome.settings else ""
        as_bytes = "" if outcome.accuracy_as_bytes is None else f"{outcome.accuracy_as_bytes:.2%}"
        interval = f"{low:.1%} - {high:.1%}"
        result.add_row(outcome.title, eps, f"{outcome.accuracy:.2%}", interval, as_bytes, str(outcome.n))
    return result


def _outcomes(trainer: Trainer) -> dict[str, Outcome]:
    measured = [c for c in trainer.callbacks if isinstance(c, Measurement)]  # type: ignore[attr-defined]
    found = {name: outcome for measurement in measured for name, outcome in measurement.outcomes.items()}
    return {name: found[name] for name in sorted(found, key=lambda name: name != "clean")}


def _records(trainer: Trainer) -> dict[str, Any]:
    """What each callback says of itself."""
    callbacks = [c for c in trainer.callbacks if isinstance(c, PipelineCallback)]  # type: ignore[attr-defined]
    return {key: value for callback in callbacks for key, value in callback.record().items()}


def _doubt(result: Mapping[str, Any]) -> str | None:
    """What a reader of the table must know first."""
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
        "data": {"class": type(data).__qualname__, "sha256": data.data_hash},
        "world_size": trainer.world_size,
        **environment.sheet(pl_module.device),
    }


def _network(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """How the network is quantized, and what one image costs."""
    assert isinstance(pl_module, ImageClassifier)
    found = cost(pl_module.network, data_of(trainer).image_shape)
    names = ("parameters", "size_in_bits", "multiply_adds", "bit_ops")
    known = {name: vars(pl_module.network).get(name) for name in ("outputs", "attack_copy")}
    return {
        "scheme": describe(pl_module.scheme),
        "cost": {name: getattr(found, name) for name in names},
        **{name: value for name, value in known.items() if value is not None},
    }


def _to_tensorboard(trainer: Trainer, outcomes: Mapping[str, Outcome], path: str | None) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            accuracies = {f"hp/{name}_acc": outcome.accuracy for name, outcome in outcomes.items()}
            logger.log_hyperparams({"checkpoint": str(path)}, accuracies)
            logger.experiment.add_figure("test/robustness", robustness_curve(outcomes.values()))
            logger.save()
