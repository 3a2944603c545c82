"""``qra doctor``: what is installed, what devices there are, whether the data is found, and what to do if not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from qra import environment
from qra.data import CIFAR10DataModule, ImageFolderDataModule
from qra.data.cifar10 import CIFAR10_ARCHIVE as ARCHIVE
from qra.files import plain
from qra.front.tool_arguments import doctor as arguments_of_doctor

GIB = 2**30


class Finding(NamedTuple):
    """One line of the report: ``good`` is false for a fault, None for what is not there but may be wanted."""

    what: str
    found: str
    good: bool | None = True
    remedy: str = ""


def findings(root: str) -> Iterator[Finding]:
    """Look at the installation, the machine and the data under ``root``."""
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
    yield _data(root)


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
            yield Finding(f"CUDA device {number}", "does not answer", False, " ".join(str(reason).split()))
            continue
        name = torch.cuda.get_device_name(number)
        bf16 = "bf16" if torch.cuda.get_device_capability(number) >= (8, 0) else "no bf16"
        yield Finding(f"CUDA device {number}", f"{name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free, {bf16}")


def _data(root: str) -> Finding:
    is_folder = any(Path(root, part).is_dir() for part in ("train", "test"))
    data = ImageFolderDataModule(root) if is_folder else CIFAR10DataModule(root)
    try:
        data.prepare_data()
    except (ValueError, OSError) as reason:
        is_there = is_folder or any(Path(root, name).exists() for name in (ARCHIVE.name, ARCHIVE.folder))
        return Finding(f"data in {root}", "not sound" if is_there else "none", False if is_there else None, str(reason))
    sizes = f"{data.size('train')} + {data.size('test')} images, {data.num_classes} classes"
    return Finding(f"data in {root}", f"{sizes}, sha256 {data.data_hash}")


def main(arguments: list[str]) -> None:
    """Print the findings, each whole; exit code 1 if there is a fault."""
    found = list(findings(arguments_of_doctor().parse_args(list(arguments)).data))
    marks = {True: "ok", None: "-", False: "FAULT"}
    width = max(len(finding.what) for finding in found)
    for finding in found:
        print(plain(f"{marks[finding.good]:5}  {finding.what:{width}}  {finding.found}"))
        if finding.remedy and finding.good is not True:
            print(plain(f"{'':5}  {'':{width}}  {finding.remedy}"))
    if any(finding.good is False for finding in found):
        raise SystemExit(1)
