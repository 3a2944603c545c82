"""Made-up images with one robust and one non-robust feature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qra import noise
from qra.data.tensors import ImageData, ImageSet, TensorDataModule

SIZE = 32
"""Height and width in pixels."""
PATTERN_AMPLITUDE = 6
"""Amplitude of the pattern of a class, in grey levels of 255: an attack of 8/255 can erase it."""
NOISE_AMPLITUDE = 4
"""Largest noise, in grey levels of 255."""

_TRAIN, _TEST = 0, 1
_SHAPE, _NOISE = 5, 6
_CHUNK = 1000


def _box(u: Tensor, v: Tensor, width: float, height: float) -> Tensor:
    return torch.maximum(u.abs() - width, v.abs() - height)


def _radius(u: Tensor, v: Tensor) -> Tensor:
    return (u * u + v * v).sqrt()


# Negative inside the shape, growing by about 1 per unit of length; v points down.
SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "disk": lambda u, v: _radius(u, v) - 1,
    "ring": lambda u, v: (_radius(u, v) - 0.75).abs() - 0.25,
    "square": lambda u, v: _box(u, v, 0.85, 0.85),
    "frame": lambda u, v: torch.maximum(_box(u, v, 0.9, 0.9), -_box(u, v, 0.5, 0.5)),
    "triangle": lambda u, v: torch.maximum(v - 0.8, u.abs() - (1 + v) * 0.55),
    "funnel": lambda u, v: torch.maximum(-v - 0.8, u.abs() - (1 - v) * 0.55),
    "plus": lambda u, v: torch.minimum(_box(u, v, 1, 0.25), _box(u, v, 0.25, 1)),
    "cross": lambda u, v: torch.maximum((u.abs() - v.abs()).abs() - 0.33, _box(u, v, 0.85, 0.85)),
    "beam": lambda u, v: _box(u, v, 1.1, 0.3),
    "pillar": lambda u, v: _box(u, v, 0.3, 1.1),
}


def patterns() -> Tensor:
    """Give the non-robust feature of each class: a fine texture, the same in all its images.

    Stripes and checks of 2 or 4 pixels, in grey or in purple against green. A crop only shifts them and a mirror
    changes nothing else, so they survive augmentation.

    Returns:
        What is added to an image, in grey levels of 255, (10, 3, 32, 32).
    """
    place = torch.arange(SIZE)
    fine, coarse = (1 - 2 * (place // period % 2) for period in (1, 2))
    flat = torch.ones_like(place)
    textures = [(flat, fine), (fine, flat), (fine, fine), (flat, coarse), (coarse, flat)]
    colours = torch.tensor([[1, 1, 1], [1, -1, 1]])
    planes = torch.stack([rows[:, None] * columns for rows, columns in textures])
    return PATTERN_AMPLITUDE * (colours[:, None, :, None, None] * planes[:, None]).flatten(0, 1).float()


def draw_images(labels: Tensor, *key: int) -> Tensor:
    """Draw one image for each label: a bright shape on a dark ground, noise, and the pattern of the class.

    Place, size, tilt and colours of the shape vary. Only operations that IEEE arithmetic rounds exactly are used, so
    the same key gives the same bytes on every machine.

    Args:
        labels: Class numbers, (N,).
        key: Integers that name the set: its seed and part.

    Returns:
        uint8, (N, 3, 32, 32).
    """
    index = torch.arange(len(labels))
    pairs = zip(torch.split(labels, _CHUNK), torch.split(index, _CHUNK), strict=True)
    return torch.cat([_draw_chunk(chunk, places, key) for chunk, places in pairs])


def _draw_chunk(labels: Tensor, index: Tensor, key: tuple[int, ...]) -> Tensor:
    draws = noise.uniform((10, 1, 1), index, *key, _SHAPE)
    cover = _cover(labels, *draws[:, :4].unbind(1))[:, None]
    ground, contrast = 89 + 26 * draws[:, 4:7], 51 + 26 * draws[:, 7:]
    grain = noise.integers(2 * NOISE_AMPLITUDE + 1, (3, SIZE, SIZE), index, *key, _NOISE) - NOISE_AMPLITUDE
    return ((ground + contrast * cover).round() + grain + patterns()[labels]).to(torch.uint8)


def _cover(labels: Tensor, right: Tensor, down: Tensor, size: Tensor, tilt: Tensor) -> Tensor:
    """Share of each pixel that the shape covers, (N, 32, 32); the draws are from U[0, 1), (N, 1, 1)."""
    place = torch.arange(SIZE) - (SIZE - 1) / 2
    x = place - (8 * right - 4)
    y = place[:, None] - (8 * down - 4)
    length = 8 + 3 * size
    half = 0.3 * tilt - 0.15  # the tangent of half the angle gives sine and cosine without rounding differences
    cos, sin = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    u, v = (x * cos + y * sin) / length, (y * cos - x * sin) / length
    distance = torch.empty_like(u)
    for number, shape in enumerate(SHAPES.values()):
        chosen = labels == number
        distance[chosen] = shape(u[chosen], v[chosen])
    return (0.5 - distance * length).clamp(0, 1)


class SyntheticDataModule(TensorDataModule):
    """Ten classes of 32 x 32 images, made in memory from a seed, that show what adversarial training is for.

    Each image holds two features of its class (after Tsipras et al. 2019, arXiv 1805.12152, and Ilyas et al. 2019,
    arXiv 1905.02175): a large bright shape, which no attack of 8/255 can hide, and a faint texture of amplitude 6/255,
    which tells the class perfectly until an attack erases it. Plain training leans on the texture and falls to PGD;
    adversarial training learns the shape.

    Args:
        train_size: Number of training images, validation included.
        test_size: Number of test images.
        data_seed: Names the images; a smaller set of one seed is the beginning of a larger one.
        val_size: Images cut from the training set for validation.
        settings: The other arguments of :class:`ImageDataModule`.

    Raises:
        ValueError: If there are fewer images than classes.
    """

    def __init__(
        self,
        train_size: int = 4000,
        test_size: int = 1000,
        data_seed: int = 0,
        val_size: int = 200,
        **settings: Any,
    ) -> None:
        super().__init__(val_size=val_size, **settings)
        for name, size in (("train_size", train_size), ("test_size", test_size)):
            if size < len(SHAPES):
                raise ValueError(f"{name} is {size}: it must be at least {len(SHAPES)}, one image of each class")
        self.train_size = train_size
        self.test_size = test_size
        self.data_seed = data_seed

    def load(self) -> ImageData:
        """Draw the images; about half a second for 5,000."""
        train, test = self._draw(self.train_size, _TRAIN), self._draw(self.test_size, _TEST)
        return ImageData(train, test, tuple(SHAPES))

    def _draw(self, size: int, part: int) -> ImageSet:
        labels = torch.arange(size) % len(SHAPES)
        return ImageSet(draw_images(labels, self.data_seed, part), labels)
