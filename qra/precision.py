"""The one arithmetic that networks are judged in, and those that attacks may search in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch


@contextmanager
def float32(device: torch.device) -> Iterator[None]:
    """Compute in float32 proper: without autocast, and without TensorFloat-32 in convolutions and matrix products.

    All that measures a network does so in here, so that all numbers of a result are of one arithmetic, whatever the
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


Precision = Literal["float32", "tf32", "bfloat16"]
"""What an attack may search in. ``tf32`` is float32 where the device has no TensorFloat-32."""


@contextmanager
def searching(precision: Precision | None, device: torch.device) -> Iterator[None]:
    """Compute in a precision that is good enough to search in; what was found is judged in :func:`float32`.

    Args:
        precision: None for what is set already.
        device: Where the network lies.
    """
    if precision is None:
        yield
        return
    with float32(device):
        if precision == "bfloat16":
            with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
                yield
            return
        if precision == "tf32":
            torch.backends.cudnn.allow_tf32 = True
            torch.set_float32_matmul_precision("high")
        yield


def suffix(precision: Precision) -> str:
    """What the name of an outcome ends in that was searched for in ``precision``."""
    return "" if precision == "float32" else f"_{precision}"
