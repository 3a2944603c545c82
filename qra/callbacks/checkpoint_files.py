"""Atomic writing of checkpoints."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from qra.modules.stored import CheckpointReader
from qra.writing import replacing


class CheckpointFiles(CheckpointReader):
    """Checkpoint plugin that replaces an earlier file completely or not at all, wherever temporary files usually go."""

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
