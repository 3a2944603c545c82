"""Byte images inside an attack: rounded in the forward pass, straight-through in the backward pass."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from qra.attacks.base import Attack
from qra.types import Norm, format_pixels

PixelType = Literal["float", "bytes"]
"""Pixels that a network receives, which are any value in [0, 1] or one of the 256 values of a byte."""

LEVELS = 255
_SLACK = 1e-4  # of a level, so that 8/255 in float32 counts as 8 levels

A = TypeVar("A", bound=Attack)


def levels(eps: float) -> int:
    """Return the number of whole byte levels (steps of 1/255) within a length in pixel units."""
    return math.floor(eps * LEVELS + _SLACK)


def on_bytes(attack: A) -> A:
    """Return the attack with its L-inf radius rounded down to whole byte levels; an L2 radius is unchanged.

    Raises:
        ValueError: If the radius is positive but smaller than one level, so that no byte can change.
    """
    eps = float(getattr(attack, "eps", 0.0))
    if eps > 0 and levels(eps) < 1:
        raise ValueError(
            f"eps is {format_pixels(eps)}, but with pixels: bytes a pixel changes by at least 1/255: choose a larger "
            "eps, or pixels: float"
        )
    whole = levels(eps) / LEVELS
    if attack.norm != "linf" or abs(whole - eps) < 1e-6:
        return attack
    return dataclasses.replace(attack, eps=whole)  # type: ignore[type-var]


def to_bytes(x_adv: Tensor, x: Tensor, eps: float, norm: Norm) -> Tensor:
    """Round adversarial images to bytes, inside the ball.

    Args:
        x_adv: Images in [0, 1], (N, C, H, W).
        x: The clean images, which are bytes divided by 255.
        eps: Radius of the ball, in pixel units.
        norm: Norm of the ball. In L2, where the nearest bytes lie outside the ball, the perturbation is shortened
            before rounding.

    Returns:
        Bytes divided by 255, like ``x``.
    """
    clean, changed = (x * LEVELS).round(), x_adv * LEVELS
    if norm == "linf":
        room = levels(eps)
        return changed.round().clamp(clean - room, clean + room).clamp_(0, LEVELS).div_(LEVELS)
    delta = changed - clean
    best = delta.trunc()  # no coordinate grows, so it stays inside
    for share in (0.9, 0.97, 0.985, 0.99, 0.995, 1.0):
        rounded = (share * delta).round()
        inside = rounded.flatten(1).norm(dim=1) <= eps * LEVELS + _SLACK
        best = torch.where(inside.view(-1, *[1] * (x.ndim - 1)), rounded, best)
    return (clean + best).clamp_(0, LEVELS).div_(LEVELS)


def check_bytes(x: Tensor) -> None:
    """Check that clean images are bytes divided by 255, since distances in levels are undefined otherwise.

    Raises:
        ValueError: If a pixel is not a multiple of 1/255, up to 1e-5.
    """
    apart = float((x - (x * LEVELS).round() / LEVELS).abs().max()) if len(x) else 0.0
    if apart > 1e-5:
        raise ValueError(f"pixels are bytes, but an image has a pixel {apart:.2g} from the nearest multiple of 1/255")


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * LEVELS).round_().div_(LEVELS)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class OnBytes(nn.Module):
    """Wraps a network so that its images are rounded to bytes, with a straight-through estimator for the rounding.

    Args:
        network: Network that takes pixels in [0, 1], (N, C, H, W).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @property
    def parts(self) -> Any:
        """The wrapped network's ``parts``, which limits how many images run at a time; None if it has none."""
        return getattr(self.network, "parts", None)

    def unrounded(self) -> OnBytes | None:
        """Return the network without the rounding of activations, on bytes too; see ``AttackState.unrounded``."""
        make = getattr(self.network, "unrounded", None)
        found = None if make is None else make()
        return None if found is None else OnBytes(found)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(_Rounded.apply(x))
        return logits

    def replay(self, work: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run work on this network, recorded if the wrapped network can; see ``qra.attacks.base.replayed``."""
        run = getattr(self.network, "replay", None)
        done: tuple[Tensor, ...] = work(self, *tensors) if run is None else run(_WorkOnBytes(work), *tensors)
        return done


@dataclass(frozen=True)
class _WorkOnBytes:
    """Runs work on a network wrapped in :class:`OnBytes`."""

    work: Any

    def __call__(self, model: nn.Module, *tensors: Tensor) -> tuple[Tensor, ...]:
        done: tuple[Tensor, ...] = self.work(OnBytes(model), *tensors)
        return done
