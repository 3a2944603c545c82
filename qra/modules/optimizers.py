"""Optimizers that do not make the host wait for a GPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer


def fuse(optimizer: Optimizer, device: torch.device) -> None:
    """Let an optimizer on a GPU take its whole step in one launch, if it can and was not asked to do otherwise."""
    if device.type != "cuda":
        return
    for group in optimizer.param_groups:
        if group.get("fused", False) is None and not group.get("foreach"):
            group["fused"] = all(parameter.is_floating_point() for parameter in group["params"])


class FiniteLoss:
    """Keeps a loss that is not finite away from the weights.

    To see each loss, the host would have to wait for the device. A fused optimizer instead learns on the device to
    leave the weights alone, from the first such loss on, and the host looks every ``PERIOD`` steps; with any other, it
    looks at each step.

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
        """Take notice of the loss of a step; the first step whose loss was not finite, and that loss, if seen."""
        self._seen.append((step, loss.detach()))
        if self._waits or loss.device.type != "cuda" or len(self._seen) == self.PERIOD:
            return self.first_bad()
        bad = loss.detach() * 0  # not a number from the first loss on that is not finite
        self._bad = bad if self._bad is None else self._bad + bad
        self._optimizer.found_inf = self._bad.isnan().float()  # type: ignore[attr-defined]
        return None

    def first_bad(self) -> tuple[int, float] | None:
        """Wait for the device, and say of the losses since the last time what :meth:`look` says."""
        if not self._seen:
            return None
        steps, losses = zip(*self._seen, strict=True)
        values = torch.stack(losses).tolist()
        self._seen = []
        return next(((s, v) for s, v in zip(steps, values, strict=True) if not -torch.inf < v < torch.inf), None)
