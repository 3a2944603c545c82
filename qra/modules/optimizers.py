"""Optimizer steps and loss checks that do not make the host wait for the GPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer


def fuse(optimizer: Optimizer, device: torch.device) -> None:
    """Use the fused step of an optimizer on a GPU, if it has one and no other implementation was requested."""
    if device.type != "cuda":
        return
    for group in optimizer.param_groups:
        if group.get("fused", False) is None and not group.get("foreach"):
            group["fused"] = all(parameter.is_floating_point() for parameter in group["params"])


class FiniteLoss:
    """Protects the weights from a non-finite loss.

    Checking every loss would make the host wait for the device. A fused optimizer therefore skips, on the device, all
    updates from the first non-finite loss on, and the host checks every ``PERIOD`` steps; with any other optimizer it
    checks at each step.

    Args:
        optimizer: Optimizer of the training.
    """

    PERIOD = 20

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._waits = not all(group.get("fused") for group in optimizer.param_groups)
        self._seen: list[tuple[int, Tensor]] = []
        self._bad: Tensor | None = None

    def look(self, step: int, loss: Tensor) -> tuple[int, float] | None:
        """Record the loss of a step; return the first step with a non-finite loss and that loss, or None if none yet.

        With a fused optimizer on a GPU, only every ``PERIOD``-th call looks at the losses.
        """
        self._seen.append((step, loss.detach()))
        if self._waits or loss.device.type != "cuda" or len(self._seen) == self.PERIOD:
            return self.first_bad()
        bad = loss.detach() * 0  # NaN from the first non-finite loss on
        self._bad = bad if self._bad is None else self._bad + bad
        self._optimizer.found_inf = self._bad.isnan().float()  # type: ignore[attr-defined]
        return None

    def first_bad(self) -> tuple[int, float] | None:
        """Wait for the device and return the first non-finite loss since the last check, with its step, or None."""
        if not self._seen:
            return None
        steps, losses = zip(*self._seen, strict=True)
        values = torch.stack(losses).tolist()
        self._seen = []
        return next(((s, v) for s, v in zip(steps, values, strict=True) if not -torch.inf < v < torch.inf), None)
