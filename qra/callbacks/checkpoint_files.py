"""Safe reading and atomic writing of checkpoints, and the callback by which every run keeps some."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import __version__ as lightning_version
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from qra import checkpoint as untrusted
from qra.writing import replacing

_VERSION = "pytorch-lightning_version"
_TRAINING = ("callbacks", "optimizer_states", "lr_schedulers", "loops", "rng_state", "MixedPrecision")
"""Keys of the training state, which is needed only to resume."""


class CheckpointFiles(TorchCheckpointIO):
    """Checkpoint plugin that reads files with :func:`qra.checkpoint.read` and replaces them completely or not at all.

    Args:
        resume: Whether training is resumed; if not, only weights and description are loaded.
    """

    def __init__(self, resume: bool) -> None:
        super().__init__()
        self.resume = resume

    def load_checkpoint(
        self, path: Any, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read the part of a checkpoint that the trainer may load.

        Args:
            path: The file, which is not trusted.
            map_location: Not used: tensors are on the CPU.
            weights_only: Not used: only tensors and plain values are read.

        Raises:
            ValueError: If the file cannot be read, or lacks the state that resuming needs.
        """
        content = untrusted.read(path)
        least = {_VERSION: lightning_version, "epoch": 0, "global_step": 0}
        if not self.resume:
            return least | {key: value for key, value in content.items() if key not in (*least, *_TRAINING)}
        if _VERSION not in content:
            raise ValueError(f"{path}: holds no training state to resume from: start from its weights by init_from")
        return least | {key: value for key, value in content.items() if not str(key).endswith("hyper_parameters")}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: Content to save, anything that ``torch.save`` accepts.
            path: The file; its directory is created if necessary.
            storage_options: Not used.

        Raises:
            OSError: If it cannot be written; an earlier file stays unchanged.
        """
        whole = io.BytesIO()  # when torch writes to a file itself, it hides the reason of a failure
        torch.save(checkpoint, whole)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(whole.getbuffer())


class RunCheckpoint(ModelCheckpoint):
    """A checkpoint that every run keeps; its state key differs from any checkpoint callback that a user adds."""

    @property
    def state_key(self) -> str:
        return f"{type(self).__name__}.{self.filename}"

    @property
    def earlier_key(self) -> str:
        """Key of its state in checkpoints written by earlier versions."""
        return super().state_key
