"""Numeric precision: float32, in which networks are evaluated, and others in which attacks may search."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Return a tensor in float32, or unchanged if it is float32 or float64.

    Half precision would move values to other levels of a quantizer, and is too coarse for losses.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


@contextmanager
def float32(device: torch.device) -> Iterator[None]:
    """Compute in true float32: without autocast, and without TensorFloat-32 in convolutions and matrix products.

    All measurements of a network run in this context, so that all numbers of a result have the same precision,
    whatever that of the training.

    Args:
        device: Device of the network.
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
"""Precision in which an attack may search; ``tf32`` is float32 where the device has no TensorFloat-32."""


@contextmanager
def searching(precision: Precision | None, device: torch.device) -> Iterator[None]:
    """Compute in a precision that is sufficient for searching; what is found is verified in :func:`float32`.

    Args:
        precision: The precision; None keeps the current settings.
        device: Device of the network.
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
    """Return the suffix of an outcome's name for an attack that searched in ``precision``; empty for float32."""
    return "" if precision == "float32" else f"_{precision}"
