"""The device that the tests of this folder run on, and commands on it."""

import json
import os
from pathlib import Path

from commands import CONFIGS, SYNTHETIC, qra

DEVICE = os.environ.get("QRA_TEST_DEVICE", "cuda")
ROOT = CONFIGS.parent
ON_DEVICE = ["--trainer.accelerator", "gpu" if DEVICE == "cuda" else DEVICE, "--trainer.devices", "1"]

_DATA = {"train_size": 260, "test_size": 100, "val_size": 60, "batch_size": 50, "calibration_size": 50}
SMALL = [
    *SYNTHETIC,
    *(word for name, value in _DATA.items() for word in (f"--data.init_args.{name}", value)),
    *("--evaluation.n", 40, "--evaluation.steps", 5, "--evaluation.eps", "[2/255, 8/255]"),
    *("--model.init_args.network", CONFIGS / "network/resnet8.yaml", "--trainer.enable_progress_bar", "false"),
]
FIT = [*SMALL, "--trainer.max_epochs", 2]


def run(*arguments, device=ON_DEVICE):
    """Run one command that must succeed, on the device; return what it printed."""
    output, code = qra(*arguments, *device)
    assert code == 0, output
    return output


def result(directory):
    """What a run has found."""
    return json.loads(Path(directory, "result.json").read_text())
