"""``qra doctor``: installed packages, devices and data, with a remedy for what is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from qra import environment
from qra.data import CIFAR10DataModule, ImageDataModule
from qra.data.recognize import data_sets
from qra.errors import one_line, reason_of
from qra.files import plain
from qra.front.tool_arguments import doctor as arguments_of_doctor

GIB = 2**30
NAMED = 20
"""Maximum number of undecodable images that are reported one by one."""


class Finding(NamedTuple):
    """One line of the report; ``good`` is False for a fault, and None for something optional that is missing."""

    what: str
    found: str
    good: bool | None = True
    remedy: str = ""


def findings(root: str, full: bool = False) -> Iterator[Finding]:
    """Inspect the installation, the machine and the data.

    Args:
        root: Directory or file of the data.
        full: Whether to decode all images, instead of the few that are checked when a run starts.
    """
    for name, version in environment.versions().items():
        yield Finding(name, version)
    yield Finding("commit", environment.commit() or "not known")
    yield Finding("processor", f"{environment.processor()}, {os.cpu_count()} cores")
    yield Finding("memory", _memory())
    disk = shutil.disk_usage(".")
    yield Finding("disk here", f"{disk.free / GIB:.1f} of {disk.total / GIB:.1f} GiB free")
    yield Finding("bf16 on the processor", _bf16_on_cpu())
    yield from _cuda()
    compiler = shutil.which("g++") or shutil.which("c++")
    yield Finding("C++ compiler", compiler or "none", True if compiler else None, "needed by compile: true on the CPU")
    yield from _data(Path(root).expanduser(), full)


def _memory() -> str:
    file = Path("/proc/meminfo")
    lines = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line) if file.exists() else {}
    kib = {name: int(lines[name].split()[0]) for name in ("MemAvailable", "MemTotal") if name in lines}
    if len(kib) < 2:
        return "not known"
    return f"{kib['MemAvailable'] / 2**20:.1f} of {kib['MemTotal'] / 2**20:.1f} GiB free"


def _bf16_on_cpu() -> str:
    file = Path("/proc/cpuinfo")
    flags = file.read_text() if file.exists() else ""
    return "in hardware" if "avx512_bf16" in flags or "amx_bf16" in flags else "emulated: slower than float32"


def _cuda() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        yield Finding("CUDA devices", "none", None, "runs use the CPU")
        return
    for number in range(torch.cuda.device_count()):
        try:
            free, total = torch.cuda.mem_get_info(number)
        except RuntimeError as reason:
            yield Finding(f"CUDA device {number}", "does not answer", False, reason_of(reason))
            continue
        name = torch.cuda.get_device_name(number)
        bf16 = "bf16" if torch.cuda.get_device_capability(number) >= (8, 0) else "no bf16"
        yield Finding(f"CUDA device {number}", f"{name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free, {bf16}")


def _data(root: Path, full: bool) -> Iterator[Finding]:
    try:
        sets, there = data_sets(root), "no data that is known" if root.exists() else "none"
    except OSError as reason:
        yield Finding(f"data in {root}", "cannot be read", False, one_line(reason))
        return
    if not sets:
        yield Finding(f"data in {root}", there, None, CIFAR10DataModule.archive.absent(root))
    for path, data in sets.items():
        try:
            yield from _of_set(f"data in {path}", data, full)
        except (ValueError, OSError) as reason:
            yield Finding(f"data in {path}", "not sound", False, one_line(reason))


def _of_set(what: str, data: ImageDataModule, full: bool) -> Iterator[Finding]:
    data.prepare_data()
    data.setup("test")
    sizes = f"{data.size('train')} + {data.size('test')} images, {data.num_classes} classes"
    sha256, faults = data.inspect(full)
    yield Finding(what, sizes if faults else f"{sizes}, sha256 {sha256}")
    for fault in faults[:NAMED]:
        yield Finding("image", fault, False)
    if more := len(faults[NAMED:]):
        yield Finding("images", f"{more} more cannot be decoded", False)


def main(arguments: list[str]) -> None:
    """Print all findings, and exit with code 1 if there is a fault."""
    given = arguments_of_doctor().parse_args(list(arguments))
    found = list(findings(given.data, given.full))
    marks = {True: "ok", None: "-", False: "FAULT"}
    width = max(len(finding.what) for finding in found)
    for finding in found:
        print(plain(f"{marks[finding.good]:5}  {finding.what:{width}}  {finding.found}"))
        if finding.remedy and finding.good is not True:
            print(plain(f"{'':5}  {'':{width}}  {finding.remedy}"))
    if any(finding.good is False for finding in found):
        raise SystemExit(1)
