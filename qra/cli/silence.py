"""Filters for messages of Lightning's that do not apply here, and the form of warnings."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

from qra.errors import plain

_devices: set[str] = set()
"""Lines on devices that were logged; every trainer logs its own, and fitting a network to the data makes a second."""


def quiet() -> None:
    """Silence advice from Lightning that does not apply here, and show warnings as one line each."""
    if not os.environ.get("QRA_DEBUG"):
        warnings.formatwarning = _one_line
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # batches come from memory in one operation
    warnings.filterwarnings("ignore", ".*args parameter is intended to run from within Python.*")
    warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint need to be provided.*")
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", ".*could not find the monitored key.*")  # TrainingRecord reports it
    warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")  # its batches are skipped
    warnings.filterwarnings("ignore", ".*Total length of `list` across ranks is zero.*")  # validation was turned off
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")  # epochs are logged anyway
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*")  # Lightning's use of torch
    warnings.filterwarnings("ignore", ".*AccumulateGrad node's stream.*")  # Lightning creates DDP in its own stream
    for name in ("pytorch.utilities.rank_zero", "fabric.utilities.rank_zero", "fabric.utilities.seed"):
        logging.getLogger(f"lightning.{name}").addFilter(_applies)


def _one_line(message: Warning | str, *_: Any, **__: Any) -> str:
    return f"qra: warning: {plain(message)}\n"


def _applies(record: logging.LogRecord) -> bool:
    """Return whether a message is neither advertising, noise, a repetition, nor advice to reduce precision on a GPU."""
    message = record.getMessage()
    if message.startswith("GPU available"):
        repeated = message in _devices
        _devices.add(message)
        return not repeated
    noise = ("Tip:", "Tensor Cores", "TPU available", "Seed set to", "Loading `train_dataloader`")
    return not any(words in message for words in noise)
