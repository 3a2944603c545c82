"""What a number was made with: versions, commit, device, command."""

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
    """Versions of this package, of Python and of the packages that results depend on."""
    found = {"qra": __version__, "python": platform.python_version()}
    return found | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # on the path, but never installed
        return "not installed"


def processor() -> str:
    """Model name of the processor, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def sheet(device: torch.device) -> dict[str, Any]:
    """Everything about the program and the machine that a result may depend on, ready for JSON."""
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
    """Instructions for vectors that the processor has, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return []
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    return re.findall(r"\b(?:sse4|avx|amx|fma|f16c|asimd|sve|i8mm)\w*", found[1]) if found else []


def has_vnni() -> bool:
    """Whether the processor multiplies and adds integers of 8 bits in one instruction."""
    return any("vnni" in flag or flag in ("amx_int8", "asimddp", "i8mm") for flag in instructions())
