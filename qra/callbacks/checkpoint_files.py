"""How checkpoints get to the disk."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from qra.modules.stored import CheckpointReader
from qra.writing import replacing


class CheckpointFiles(CheckpointReader):
    """Checkpoints that take the place of earlier ones whole or not at all, wherever temporary files usually go."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: What ``torch.save`` takes.
            path: The file; its directory is made if need be.
            storage_options: Not used.

        Raises:
            OSError: If it cannot be written; the earlier one stays as it was.
        """
        whole = io.BytesIO()  # the writer of torch hides the reason of a failure
        torch.save(checkpoint, whole)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(whole.getbuffer())
