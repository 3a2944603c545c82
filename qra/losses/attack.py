"""Losses that an attack maximizes.

Each takes logits (N, C) and returns one value per example, (N,). Larger is always worse for the classifier. Losses that
divide by a difference of logits (DLR) should get float32 or float64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_TINY = 1e-12


def prediction(logits: Tensor) -> Tensor:
    """Return the class of the largest logit, (N, C) to (N,), or -1 where not all logits are finite."""
    return torch.where(logits.isfinite().all(1), logits.argmax(1), -1)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy with the labels ``y`` (N,), in nats."""
    return F.cross_entropy(logits, y, reduction="none")


def cw_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the largest wrong logit minus the logit of ``y`` (N,), which is positive where the prediction is wrong.

    This is the margin of Carlini and Wagner 2017, eq. 6 (f_6), without its confidence bound.

    Raises:
        ValueError: If there are fewer than 2 classes.
    """
    return _margin(logits, y, _top(logits, 2, "cw_margin"))


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Return the difference of logits ratio: the margin divided by the gap between the largest and third largest logit.

    It is invariant to shifts and scaling of all logits. Croce and Hein 2020 (AutoAttack), eq. 6.

    Raises:
        ValueError: If there are fewer than 3 classes.
    """
    top = _top(logits, 3, "dlr")
    return _margin(logits, y, top) / (top.values[:, 0] - top.values[:, 2] + _TINY)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return the logit of ``target`` (N,) minus that of ``y`` (N,), divided by a gap among the four largest logits.

    The gap is the largest logit minus the mean of the third and fourth. The loss is invariant to shifts and scaling of
    all logits. Croce and Hein 2020 (AutoAttack), eq. 7.

    Raises:
        ValueError: If there are fewer than 4 classes.
    """
    top = _top(logits, 4, "targeted_dlr").values
    gap = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
    return (_pick(logits, target) - _pick(logits, y)) / (gap + _TINY)


def kl(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Return the divergence KL(softmax(target_logits) || softmax(logits)) of logits (N, C), in nats.

    The attack of TRADES maximizes it (Zhang et al. 2019, eq. 5).
    """
    log_p = F.log_softmax(target_logits.to(logits.dtype), dim=1)
    return F.kl_div(F.log_softmax(logits, dim=1), log_p, reduction="none", log_target=True).sum(1)


def _top(logits: Tensor, count: int, name: str) -> torch.return_types.topk:
    if logits.shape[1] < count:
        raise ValueError(f"{name} needs at least {count} classes, the network has {logits.shape[1]}: use cross_entropy")
    return logits.topk(count, dim=1)


def _pick(logits: Tensor, y: Tensor) -> Tensor:
    return logits.gather(1, y[:, None])[:, 0]


def _margin(logits: Tensor, y: Tensor, top: torch.return_types.topk) -> Tensor:
    best_wrong = torch.where(top.indices[:, 0] == y, top.values[:, 1], top.values[:, 0])
    return best_wrong - _pick(logits, y)
