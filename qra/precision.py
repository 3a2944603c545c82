"""The one arithmetic that networks are judged in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32(device: torch.device) -> Iterator[None]:
    """Compute in float32 proper: without autocast, and without TensorFloat-32 in convolutions and matrix products.

    Whatever measures a network does so in here, so that all numbers of a result are of one arithmetic, whatever the
    precision of training.

    Args:
        device: Where the network lies.
    """
    cudnn, matmul = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = cudnn
        torch.set_float32_matmul_precision(matmul)
