"""The environment that results were made in: versions, commit, device and command."""

from __future__ import annotations

import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from qra.version import __version__, commit

__all__ = ["commit", "processor", "sheet", "versions"]

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "pyautoattack", "jsonargparse", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of the packages that results depend on."""
    found = {"qra": __version__, "python": platform.python_version()}
    return found | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # importable, but never installed
        return "not installed"


def processor() -> str:
    """Return the model name of the processor, as far as the system reports it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def sheet(device: torch.device) -> dict[str, Any]:
    """Return everything about program and machine that a result may depend on, ready for JSON."""
    return {
        "command": sys.argv,
        "commit": commit(),
        "versions": versions(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "autocast": torch.is_autocast_enabled(device.type),
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def instructions() -> list[str]:
    """Return the processor's vector instruction sets, as far as the system reports them."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return []
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    return re.findall(r"\b(?:sse4|avx|amx|fma|f16c|asimd|sve|i8mm)\w*", found[1]) if found else []


def has_vnni() -> bool:
    """Return whether the processor has a fused multiply-add instruction for 8-bit integers."""
    return any("vnni" in flag or flag in ("amx_int8", "asimddp", "i8mm") for flag in instructions())
