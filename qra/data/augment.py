"""Conversion of stored bytes to pixels, and random crop and flip of a whole batch at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from qra import noise


def to_pixels(images: Tensor) -> Tensor:
    """Convert uint8 images of any shape to float32 pixels in [0, 1], rounded the same way on every device."""
    # Division by a number may become multiplication by its rounded reciprocal; division by a tensor does not.
    return images.float() / torch.full((), 255.0, device=images.device)


def random_crop_flip(x: Tensor, indices: Tensor, seed: int, epoch: int, padding: int = 4) -> Tensor:
    """Pad with zeros, crop to the old size at a random place, and mirror half of the images.

    What happens to an image depends only on its index, the seed and the epoch, not on its batch, the rank or the
    device.

    Args:
        x: Images of any dtype, (N, C, H, W).
        indices: Data set indices of the images, on the device of ``x``, (N,).
        seed: Seed of the sequence of draws.
        epoch: Position in that sequence.
        padding: Width of the zero padding on each side, in pixels.

    Returns:
        Images like ``x``.
    """
    n, channels, height, width = x.shape
    draws = noise.uniform((3,), indices, seed, epoch, noise.Stream.AUGMENT)
    top, left = (draws[:, :2] * (2 * padding + 1)).long().unbind(1)
    mirror = draws[:, 2:] < 0.5
    rows = top[:, None] + torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device)
    columns = left[:, None] + torch.where(mirror, columns.flip(0), columns)
    # One gather of pixels: 0.3 ms for 128 images of 32 x 32 on a CPU, a sixth of a loop over the images.
    pixels = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    padded = F.pad(x, (padding, padding, padding, padding)).flatten(2)
    return padded.gather(2, pixels.view(n, 1, -1).expand(-1, channels, -1)).view_as(x)
