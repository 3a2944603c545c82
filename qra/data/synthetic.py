"""Synthetic images with one robust and one non-robust feature."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from qra import noise
from qra.checks import check_count
from qra.data.tensors import ImageData, ImageSet, TensorDataModule
from qra.noise import Stream

SIZE = 32
"""Default height and width of an image, in pixels."""
SMALLEST = 8
"""Smallest height and width of an image, in pixels."""
LEVELS = 3
"""Largest number of nested shapes that identify a class."""
INNER, LOWER = 0.4, 0.45
"""Size of a shape, and its distance below the centre of the surrounding shape, in units of that shape's size.

At the centre, a disk in a disk would be a ring."""
PATTERN_AMPLITUDE = 6
"""Amplitude of the pattern of a class, in grey levels of 255: an attack of 8/255 can erase it."""
NOISE_AMPLITUDE = 4
"""Largest noise, in grey levels of 255."""

_TRAIN, _TEST = 0, 1
_TOGETHER = 1000 * 3 * SIZE * SIZE
"""Number of pixels that are drawn at a time."""


def _box(u: Tensor, v: Tensor, width: float, height: float) -> Tensor:
    return torch.maximum(u.abs() - width, v.abs() - height)


def _radius(u: Tensor, v: Tensor) -> Tensor:
    # MKL rounds float32 square roots exactly only on some processors; the float64 root always rounds to the nearest
    # float32.
    return (u * u + v * v).double().sqrt().float()


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


def patterns(classes: int = 10, channels: int = 3, size: int = SIZE) -> Tensor:
    """Return the non-robust feature of each class: a fine texture, the same in all its images.

    The textures are stripes and checks of 2 or 4 pixels, in grey or in purple against green and, for more classes,
    symmetric tiles of 8 pixels with random signs. A crop or flip only shifts them, so they survive augmentation.

    Args:
        classes: Number of classes.
        channels: Channels of an image.
        size: Height and width of an image, in pixels.

    Returns:
        What is added to an image, in grey levels of 255, (classes, channels, size, size).
    """
    place = torch.arange(size)
    fine, coarse = (1 - 2 * (place // period % 2) for period in (1, 2))
    flat = torch.ones_like(place)
    textures = [(flat, fine), (fine, flat), (fine, fine), (flat, coarse), (coarse, flat)]
    colours = torch.stack([torch.ones(channels), 1 - 2.0 * (torch.arange(channels) % 2)])[:channels]
    planes = torch.stack([rows[:, None] * columns for rows, columns in textures])
    regular = (colours[:, None, :, None, None] * planes[:, None]).flatten(0, 1)[:classes]
    halves = 1 - 2 * noise.integers(2, (channels, 8, 4), torch.arange(len(regular), classes), Stream.TILE)
    tiles = torch.cat([halves, halves.flip(3)], 3)
    return PATTERN_AMPLITUDE * torch.cat([regular, tiles[:, :, place % 8][..., place % 8]]).float()


def shapes_of(labels: Tensor) -> Iterator[Tensor]:
    """Yield the numbers of the shapes that identify each class, from outermost to innermost, -1 for none, (N,)."""
    rest = labels
    for _ in range(LEVELS):
        yield torch.where(rest < 0, -1, rest % len(SHAPES))
        rest = rest.div(len(SHAPES), rounding_mode="floor") - 1


def class_name(number: int) -> str:
    """Return the name of a class from its shapes, such as ``disk`` or ``ring in disk``."""
    names = [tuple(SHAPES)[shape] for (shape,) in shapes_of(torch.tensor([number])) if shape >= 0]
    return " in ".join(reversed(names))


def draw_images(labels: Tensor, *key: int, channels: int = 3, size: int = SIZE) -> Tensor:
    """Draw one image per label: a bright shape on a dark ground, noise, and the pattern of the class.

    Position, size, tilt and colours of the shape vary. Only operations that IEEE arithmetic rounds exactly are used, so
    the same key gives the same bytes on every machine.

    Args:
        labels: Class numbers, (N,).
        key: Integers that identify the set: its seed and part.
        channels: Channels of an image.
        size: Height and width of an image, in pixels.

    Returns:
        uint8, (N, channels, size, size).
    """
    index, texture = torch.arange(len(labels)), patterns(int(labels.max()) + 1, channels, size)
    at_a_time = max(1, _TOGETHER // texture[0].numel())
    pairs = zip(torch.split(labels, at_a_time), torch.split(index, at_a_time), strict=True)
    return torch.cat([_draw_some(some, places, texture, key) for some, places in pairs])


def _draw_some(labels: Tensor, index: Tensor, texture: Tensor, key: tuple[int, ...]) -> Tensor:
    _, channels, size, _ = texture.shape
    draws = noise.uniform((4 + 2 * channels, 1, 1), index, *key, Stream.SHAPE)
    cover = _cover(labels, size, *draws[:, :4].unbind(1))[:, None]
    ground, contrast = 89 + 26 * draws[:, 4 : 4 + channels], 51 + 26 * draws[:, 4 + channels :]
    grain = noise.integers(2 * NOISE_AMPLITUDE + 1, (channels, size, size), index, *key, Stream.GRAIN) - NOISE_AMPLITUDE
    return ((ground + contrast * cover).round() + grain + texture[labels]).to(torch.uint8)


def _cover(labels: Tensor, side: int, right: Tensor, down: Tensor, size: Tensor, tilt: Tensor) -> Tensor:
    """Return each pixel's brightness, 0 (ground) to 1 (shape), (N, side, side), from draws in [0, 1), (N, 1, 1)."""
    scale = side / SIZE
    place = torch.arange(side) - (side - 1) / 2
    x = place - (8 * right - 4) * scale
    y = place[:, None] - (8 * down - 4) * scale
    length = (8 + 3 * size) * scale
    half = 0.3 * tilt - 0.15  # half-angle tangent: sine and cosine without rounding differences
    cos, sin = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    u, v = (x * cos + y * sin) / length, (y * cos - x * sin) / length
    cover = torch.zeros_like(u)
    for numbers in shapes_of(labels):
        for number, shape in enumerate(SHAPES.values()):
            chosen = numbers == number
            inside = (0.5 - shape(u[chosen], v[chosen]) * length[chosen]).clamp(0, 1)
            cover[chosen] += inside - 2 * inside * cover[chosen]  # dark in a bright shape, bright in a dark one
        u, v, length = u / INNER, (v - LOWER) / INNER, INNER * length
    return cover


class SyntheticDataModule(TensorDataModule):
    """Synthetic images, drawn in memory from a seed, that show the effect of adversarial training.

    Each image has two features of its class (after Tsipras et al. 2019, arXiv 1805.12152, and Ilyas et al. 2019, arXiv
    1905.02175): a large bright shape, which no attack of 8/255 can hide, and a faint texture of amplitude 6/255, which
    identifies the class perfectly until an attack erases it. Plain training relies on the texture and fails under PGD;
    adversarial training learns the shape.

    From the eleventh class on, a smaller shape inside the first also identifies the class, and from the 111th on
    another one inside that, which is visible only in images larger than 32 x 32 pixels.

    Args:
        train_size: Number of training images, including validation images.
        test_size: Number of test images.
        data_seed: Seed of the images; a smaller set is the beginning of a larger one with the same seed.
        classes: Number of classes, from 2 to 1110. It changes the positions of a class's images in the set, not how
            they look.
        image_size: Height and width of an image in pixels, at least 8. Shapes scale with it, textures do not.
        channels: Channels of an image: 3 for colour, 1 for grey.
        val_size: Number of training images held out for validation.
        settings: The other arguments of :class:`ImageDataModule`.

    Raises:
        ValueError: If a value is out of range, or there are fewer images than classes.
    """

    made_up = True

    def __init__(
        self,
        train_size: int = 4000,
        test_size: int = 1000,
        data_seed: int = 0,
        classes: int = 10,
        image_size: int = SIZE,
        channels: int = 3,
        val_size: int = 200,
        **settings: Any,
    ) -> None:
        super().__init__(val_size=val_size, **settings)
        most = sum(len(SHAPES) ** (level + 1) for level in range(LEVELS))
        if not 2 <= classes <= most:
            raise ValueError(f"classes is {classes}: it must be in 2..{most}")
        check_count("image_size", image_size, SMALLEST)
        check_count("channels", channels)
        for name, size in (("train_size", train_size), ("test_size", test_size)):
            check_count(name, size, classes)
        self.train_size = train_size
        self.test_size = test_size
        self.data_seed = data_seed
        self.classes = classes
        self.image_size = image_size
        self.channels = channels

    def load(self) -> ImageData:
        """Draw the images; 5,000 of 32 x 32 take about half a second."""
        train, test = self._draw(self.train_size, _TRAIN), self._draw(self.test_size, _TEST)
        return ImageData(train, test, tuple(map(class_name, range(self.classes))))

    def _draw(self, size: int, part: int) -> ImageSet:
        labels = torch.arange(size) % self.classes
        images = draw_images(labels, self.data_seed, part, channels=self.channels, size=self.image_size)
        return ImageSet(images, labels)
