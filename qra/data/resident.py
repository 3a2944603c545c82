"""Images that are kept on the device they are used on, augmented there for a whole pass at once."""

from __future__ import annotations

import torch
from torch import Tensor

from qra.data.augment import random_crop_flip

SHARE = 0.25
"""Largest share of a device's free memory that images may take, augmented copy included."""

_PART = 4096


def fits(device: torch.device, *images: Tensor) -> bool:
    """Whether images may be kept on a device; never on the CPU, where they are already."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return sum(each.nbytes for each in images) <= SHARE * free


class AugmentedImages:
    """Images of a training set as they are in one pass: each cropped and mirrored as in any other batch.

    What happens to an image depends on its index, the seed and the number of the pass, so all images of a pass can be
    made at once, which takes as many launches as those of one batch.

    Args:
        images: uint8, on the device, (N, C, H, W).
        used: Positions of those to augment, (M,).
        seed: Seed of crops and flips, see :func:`qra.data.random_crop_flip`.
    """

    def __init__(self, images: Tensor, used: Tensor, seed: int) -> None:
        self._images, self._seed = images, seed
        self._used = used.to(images.device)
        self._augmented = torch.empty_like(images)
        self._pass = -1

    def of_pass(self, number: int) -> Tensor:
        """All images, those in use augmented for a pass; the memory is that of the pass before."""
        if number != self._pass:
            for part in torch.split(self._used, _PART):
                self._augmented[part] = random_crop_flip(self._images[part], part, self._seed, number)
            self._pass = number
        return self._augmented
