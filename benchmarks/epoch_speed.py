"""Seconds of a training epoch through ``qra fit``, plain and adversarial, float and quantized, on synthetic images."""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from common import report
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from qra.cli import main as qra

ROOT = Path(__file__).parents[1]
PIPELINES = {
    "plain": ["--config", "configs/pipeline/float-plain.yaml"],
    "PGD-10 AT": ["--config", "configs/pipeline/float-at.yaml"],
    "W4A4 PGD-10 AT": ["--config", "configs/pipeline/qat-at.yaml"],
}


class EpochClock(Callback):
    """Records the seconds of training and of validation in each epoch."""

    seconds: ClassVar[list[tuple[float, float]]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begun = _now(pl_module.device)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trained = _now(pl_module.device)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds.append((self._trained - self._begun, _now(pl_module.device) - self._trained))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--images", type=int, default=50_000, help="training images, 1,000 of them for validation")
    made.add_argument("--val-size", type=int, default=1000, help="images of validation")
    made.add_argument("--batch-sizes", type=int, nargs="*", default=[128], help="batch sizes of adversarial training")
    made.add_argument("--pipelines", nargs="*", default=list(PIPELINES), help="which of the pipelines")
    made.add_argument("--epochs", type=int, default=2, help="epochs of each; the fastest counts")
    made.add_argument("--precision", default="bf16-mixed", help="Lightning's name of the precision")
    made.add_argument("--compile", action="store_true", help="with torch.compile")
    made.add_argument("--device", type=torch.device, default="cpu", help="where to run: cpu or cuda")
    made.add_argument("--json", type=Path, metavar="FILE", help="also write all figures to this file")
    args = made.parse_args(argv)
    rows: list[dict[str, Any]] = []
    for batch_size in args.batch_sizes:
        for name in args.pipelines:
            if name != "plain" or batch_size == args.batch_sizes[0]:
                rows.append(row(name, batch_size, args))
                report("epochs of qra fit", rows, [f"{args.precision}, compiled: {args.compile}"], args)
    return rows


def row(name: str, batch_size: int, args: argparse.Namespace) -> dict[str, Any]:
    EpochClock.seconds = []
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as run, contextlib.chdir(ROOT), contextlib.redirect_stdout(io.StringIO()):
        qra(arguments(name, batch_size, Path(run), args))
    whole = time.perf_counter() - begun
    seconds, validation = min(EpochClock.seconds)
    figures = {"seconds": seconds, "images/s": (args.images - args.val_size) / seconds, "validation": validation}
    figures |= {"first epoch": sum(EpochClock.seconds[0]), "fit": whole}
    return {"pipeline": name, "batch": batch_size, **figures}


def arguments(name: str, batch_size: int, run: Path, args: argparse.Namespace) -> list[str]:
    """Return the arguments of ``qra`` on the command line."""
    data = {"class_path": "qra.data.SyntheticDataModule", "train_size": args.images, "val_size": args.val_size}
    options = {
        "data": data.pop("class_path"),
        **{f"data.init_args.{key}": value for key, value in data.items()},
        "data.init_args.batch_size": batch_size,
        "data.init_args.calibration_size": min(512, args.images - args.val_size),
        "model.init_args.compile": str(args.compile).lower(),
        "trainer.max_epochs": args.epochs,
        "trainer.precision": args.precision,
        "trainer.accelerator": "gpu" if args.device.type == "cuda" else "cpu",
        "trainer.devices": 1,
        "trainer.logger": "false",
        "trainer.callbacks+": f"{EpochClock.__module__}.EpochClock",
        "run": run,
    }
    return ["fit", *PIPELINES[name], *(f"--{key}={value}" for key, value in options.items())]


if __name__ == "__main__":
    import epoch_speed  # the command line imports the clock from this module, and it must be the same class

    epoch_speed.main()
