"""Crop and scale images of any size to one size, as torchvision does for ImageNet, with random crops drawn by index."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from qra import noise

Interpolation = Literal["bilinear", "bicubic"]
Library = Literal["torchvision", "pillow"]

AREA = (0.08, 1.0)
"""Smallest and largest area of a random crop, as a fraction of the image (Szegedy et al. 2015, arXiv 1409.4842)."""
ASPECT = (3 / 4, 4 / 3)
"""Smallest and largest aspect ratio of a random crop, width over height."""
TRIES = 10
"""Number of crops that are drawn until one lies inside the image."""


@dataclass(frozen=True)
class Crops:
    """How a decoded image becomes an image of a batch.

    Attributes:
        size: Height and width of the result, in pixels.
        resize: Length to which the shorter side is scaled before the centre crop, in pixels.
        interpolation: Interpolation method for scaling.
        library: Library that scales: ``torchvision`` scales the decoded bytes as a tensor, ``pillow`` a Pillow image.
        channels: Channels of the result: 3 for RGB, 1 for grey.
    """

    size: int
    resize: int
    interpolation: Interpolation
    library: Library
    channels: int

    def whole(self, image: Image.Image) -> Tensor:
        """Scale an image and crop its centre.

        Args:
            image: The decoded image.

        Returns:
            uint8, (C, size, size).
        """
        scaled = F.resize(self._scalable(image), [self.resize], self._scaling, antialias=True)
        return _bytes(F.center_crop(scaled, [self.size, self.size]))

    def random(self, image: Image.Image, draws: list[float]) -> Tensor:
        """Scale a random crop of an image, mirrored with probability 1/2.

        Args:
            image: The decoded image.
            draws: Uniform random numbers in [0, 1), see :func:`draw`.

        Returns:
            uint8, (C, size, size).
        """
        box = random_box(image.height, image.width, draws[1:])
        sides = [self.size, self.size]
        cut = F.resized_crop(self._scalable(image), *box, sides, self._scaling, antialias=True)
        return _bytes(F.hflip(cut) if draws[0] < 0.5 else cut)

    def _scalable(self, image: Image.Image) -> Any:
        return image if self.library == "pillow" else F.pil_to_tensor(image)

    @property
    def _scaling(self) -> InterpolationMode:
        return InterpolationMode(self.interpolation)


def draw(indices: Tensor, seed: int, number: int) -> list[list[float]]:
    """Draw the random numbers that :meth:`Crops.random` needs for each image.

    They depend only on the image's index, the seed and the pass.

    Args:
        indices: Data set indices of the images, (N,).
        seed: Seed of the sequence of draws.
        number: Number of the pass through the images.
    """
    drawn = noise.uniform((1 + 4 * TRIES,), indices, seed, number, noise.Stream.AUGMENT)
    return cast(list[list[float]], drawn.tolist())


def random_box(height: int, width: int, draws: list[float]) -> tuple[int, int, int, int]:
    """Return a crop of random area, aspect ratio and position, or a centre crop if no try lies inside the image.

    Args:
        height: Height of the image, in pixels.
        width: Width of the image, in pixels.
        draws: Uniform random numbers in [0, 1), four per try.

    Returns:
        Top, left, height and width of the crop, in pixels.
    """
    low, high = map(math.log, ASPECT)
    for at in range(0, len(draws), 4):
        share, shape, down, right = draws[at : at + 4]
        area = height * width * (AREA[0] + share * (AREA[1] - AREA[0]))
        aspect = math.exp(low + shape * (high - low))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(down * (height - h + 1)), int(right * (width - w + 1)), h, w
    w, h = min(width, round(height * ASPECT[1])), min(height, round(width / ASPECT[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def _bytes(image: Any) -> Tensor:
    return image if isinstance(image, torch.Tensor) else F.pil_to_tensor(image)
