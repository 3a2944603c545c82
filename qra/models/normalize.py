"""Pixel normalization as part of the network, so that every network takes pixels in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qra.describe import described

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
"""Per-channel mean of the CIFAR-10 training images, in pixel units."""
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
"""Per-channel standard deviation of the CIFAR-10 training images, in pixel units."""


class Normalize(nn.Module):
    """Map pixels in [0, 1] to ``(x - mean) / std``, channel by channel.

    Args:
        mean: Mean of each channel, in pixel units.
        std: Standard deviation of each channel, in pixel units.

    Raises:
        ValueError: If the lengths differ or a standard deviation is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = CIFAR10_MEAN, std: Sequence[float] = CIFAR10_STD) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"normalization needs one mean and one positive std per channel, not {mean} and {std}")
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


@described
class Normalized(nn.Sequential):
    """Wraps a network that expects normalized images, so that it takes pixels in [0, 1].

    Args:
        network: A network that expects normalized images (N, C, H, W) and returns logits.
        mean: Mean of each channel that the network was trained with, in pixel units.
        std: Standard deviation of each channel that the network was trained with, in pixel units.
    """

    def __init__(
        self, network: nn.Module, mean: Sequence[float] = CIFAR10_MEAN, std: Sequence[float] = CIFAR10_STD
    ) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.network = network
