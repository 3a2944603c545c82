"""Images stored on the device that uses them, and augmented there for a whole pass at once."""

from __future__ import annotations

import torch
from torch import Tensor

from qra.data.augment import random_crop_flip

SHARE = 0.25
"""Largest fraction of a device's free memory that images may take, including the augmented copy."""

_PART = 4096


def fits(device: torch.device, *images: Tensor) -> bool:
    """Whether images may be stored on a device; False for the CPU, where they already are."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return sum(each.nbytes for each in images) <= SHARE * free


class AugmentedImages:
    """The images of a training set in one pass, each cropped and mirrored as it would be in any batch.

    What happens to an image depends only on its index, the seed and the number of the pass. All images of a pass can
    therefore be augmented at once, with as many kernel launches as one batch takes.

    Args:
        images: uint8, on the device, (N, C, H, W).
        used: Positions of the images to augment, (M,).
        seed: Seed of crops and flips, see :func:`qra.data.random_crop_flip`.
    """

    def __init__(self, images: Tensor, used: Tensor, seed: int) -> None:
        self._images, self._seed = images, seed
        self._used = used.to(images.device)
        self._augmented = torch.empty_like(images)
        self._pass = -1

    def of_pass(self, number: int) -> Tensor:
        """Return all images, with those in use augmented for a pass. The memory of the previous pass is reused."""
        if number != self._pass:
            for part in torch.split(self._used, _PART):
                self._augmented[part] = random_crop_flip(self._images[part], part, self._seed, number)
            self._pass = number
        return self._augmented
