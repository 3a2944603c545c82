"""Shared code of the benchmarks: alternating measurements, ratios within rounds, and one table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from qra import environment, models
from qra.models import ResNet
from qra.modules import ImageClassifier
from qra.timing import Timing as Timing
from qra.timing import alternate as alternate
from qra.timing import speed_ratio as speed_ratio
from qra.timing import times_as_long as times_as_long
from qra.types import Batch


def parser(description: str | None, batch_size: int) -> argparse.ArgumentParser:
    """Return an argument parser with the options that all benchmarks share."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--batch-size", type=int, default=batch_size, help="images of one batch")
    made.add_argument("--rounds", type=int, default=5, help="measurements of each row, after one to warm up")
    made.add_argument("--compile", action="store_true", help="add rows with torch.compile")
    made.add_argument("--device", type=torch.device, default="cpu", help="where to run: cpu or cuda")
    made.add_argument("--json", type=Path, metavar="FILE", help="also write all figures to this file")
    return made


def untrained() -> ResNet:
    """Return a ResNet20 in train mode whose weights are the same in every run."""
    torch.manual_seed(0)
    return models.resnet20()


def optimizer_steps(module: ImageClassifier, batch: Batch, count: int, bfloat16: bool = False) -> Callable[[], None]:
    """Return a function that runs ``count`` training steps of a module on one batch, including the optimizer's."""
    vars(module)["log"] = lambda *_, **__: None  # there is no trainer to log to
    module.to(batch.x.device).train().setup("fit")
    optimizer = module.configure_optimizers()

    def run() -> None:
        for _ in range(count):
            optimizer.zero_grad()
            with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=bfloat16):
                loss = module.training_step(batch, 0)
            torch.autograd.backward(loss)
            optimizer.step()

    return run


def report(title: str, rows: Sequence[Mapping[str, Any]], notes: Sequence[str], args: argparse.Namespace) -> None:
    """Print the rows as a table with hardware and versions, and write them to ``args.json`` if that is set."""
    sheet = environment.sheet(args.device)
    table = Table(title=title, caption="\n".join(notes), caption_justify="left", box=box.MARKDOWN)
    for column, value in rows[0].items():
        table.add_column(column, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console = Console(width=120)  # too wide for some terminals, but fit to paste into a document
    console.print(table)
    console.print(f"{sheet['device']}, {sheet['threads']} threads, torch {sheet['versions']['torch']}", highlight=False)
    if args.json:
        figures = {"rows": rows, "notes": notes, "settings": vars(args), "environment": sheet}
        args.json.write_text(json.dumps(figures, indent=2, default=str) + "\n")


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
