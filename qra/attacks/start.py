"""Initial perturbations of attacks: noise as a pure function of seed, epoch, restart and data set index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from qra import noise
from qra.checks import check_in
from qra.types import Norm


class Start(ABC):
    """Base class of initial perturbations; a subclass is a frozen dataclass."""

    @abstractmethod
    def __call__(self, x: Tensor, eps: float, norm: Norm, indices: Tensor, epoch: int, restart: int) -> Tensor:
        """Draw the initial perturbation. The attack projects it onto the ball and the pixel range.

        Args:
            x: Images in [0, 1], (N, C, H, W).
            eps: Radius of the ball, in pixel units.
            norm: Norm of the ball.
            indices: Positions of the images in their data set, (N,).
            epoch: Epoch of the caller, 0 outside training.
            restart: Number of the restart, from 0.

        Returns:
            Perturbation like ``x``.
        """


@dataclass(frozen=True)
class ZeroStart(Start):
    """Start at the image itself."""

    def __call__(self, x: Tensor, eps: float, norm: Norm, indices: Tensor, epoch: int, restart: int) -> Tensor:
        return torch.zeros_like(x)


@dataclass(frozen=True)
class UniformStart(Start):
    """Start at a point drawn uniformly from the ball.

    Args:
        seed: Seed of the random draws.
    """

    seed: int = 0

    def __call__(self, x: Tensor, eps: float, norm: Norm, indices: Tensor, epoch: int, restart: int) -> Tensor:
        key = (noise.Stream.START, self.seed, epoch, restart)
        if norm == "linf":
            return noise.uniform(x.shape[1:], indices, *key).mul_(2 * eps).sub_(eps).to(x.dtype)
        direction = noise.normal(x.shape[1:], indices, *key)
        length = torch.linalg.vector_norm(direction.flatten(1), dim=1)
        # the volume within radius r grows as r to the power of the number of pixel values
        radius = eps * noise.uniform((), indices, *key, 0) ** (1 / x[0].numel())
        return direction.mul_((radius / length).view(-1, *[1] * (x.ndim - 1))).to(x.dtype)


@dataclass(frozen=True)
class GaussianStart(Start):
    """Start close to the image, with independent normal noise on each pixel, as TRADES does.

    Args:
        std: Standard deviation, in pixel units.
        seed: Seed of the random draws.

    Raises:
        ValueError: If ``std`` is not a positive number.
    """

    std: float = 0.001
    seed: int = 0

    def __post_init__(self) -> None:
        check_in("std", self.std, "(0, inf)")

    def __call__(self, x: Tensor, eps: float, norm: Norm, indices: Tensor, epoch: int, restart: int) -> Tensor:
        draws = noise.normal(x.shape[1:], indices, noise.Stream.START, self.seed, epoch, restart)
        return draws.mul_(self.std).to(x.dtype)
