"""``qra doctor``: what is installed, what devices there are, whether the data is found, and what to do if not."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qra import environment
from qra.data import CIFAR10DataModule, ImageFolderDataModule
from qra.files import plain


class Finding(NamedTuple):
    """One line of the report: ``good`` is None where nothing is wrong and nothing is needed."""

    what: str
    found: str
    good: bool | None
    remedy: str = ""


def findings(root: str) -> Iterator[Finding]:
    """Look at the installation, the devices and the data under ``root``."""
    for name, version in environment.versions().items():
        yield Finding(name, version, True)
    yield Finding("commit", environment.commit() or "not a git checkout", None)
    yield Finding("processor", f"{environment.processor()}, {os.cpu_count()} cores", True)
    yield _cuda()
    compiler = shutil.which("g++") or shutil.which("c++")
    yield Finding("C++ compiler", compiler or "none", True if compiler else None, "needed by compile: true on the CPU")
    yield _data(root)


def _cuda() -> Finding:
    if not torch.cuda.is_available():
        return Finding("CUDA devices", "none", None, "runs use the CPU")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("CUDA devices", ", ".join(names), True)


def _data(root: str) -> Finding:
    is_folder = (Path(root) / "train").is_dir()
    data = ImageFolderDataModule(root) if is_folder else CIFAR10DataModule(root)
    try:
        data.prepare_data()
    except (ValueError, OSError) as reason:
        return Finding(f"data in {root}", "not found or not sound", False, str(reason))
    sizes = f"{len(data.data.train)} + {len(data.data.test)} images, {data.num_classes} classes"
    return Finding(f"data in {root}", f"{sizes}, sha256 {data.data_hash[:12]}", True)


def main(arguments: list[str]) -> None:
    """Print the findings; exit code 1 if something that a run needs is missing."""
    parser = argparse.ArgumentParser("qra doctor", description="Look at the installation, the devices and the data.")
    parser.add_argument("--data", default="data", help="directory of CIFAR-10 or of a tree {train,test}/CLASS/IMAGE")
    found = list(findings(parser.parse_args(arguments).data))
    table = Table("", "what", "found", "note", box=None)
    marks = {True: "[green]ok[/]", None: "[dim]-[/]", False: "[red]no[/]"}
    for finding in found:
        remedy = finding.remedy if finding.good is not True else ""
        table.add_row(marks[finding.good], *(escape(plain(text)) for text in (finding.what, finding.found, remedy)))
    Console().print(table)
    if any(finding.good is False for finding in found):
        raise SystemExit(1)
