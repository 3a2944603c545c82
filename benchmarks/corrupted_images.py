"""Make corrupted test images in the layout of CIFAR-10-C: ``python benchmarks/corrupted_images.py ROOT OUT``.

ROOT holds ``test/CLASS/IMAGE``. OUT receives ``gaussian_noise.npy``, ``gaussian_blur.npy`` and ``contrast.npy``, each
with three severities one after the other, and ``labels.npy``. The same images always give the same files. These are not
the published corruptions of CIFAR-10-C; they show the effect of corruptions of its kinds if CIFAR-10-C is not
available.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from qra.data import ImageFolderDataModule

NOISE = (0.04, 0.08, 0.12)
"""Standard deviation of independent normal noise, in pixel units."""
BLUR = (0.6, 1.0, 1.5)
"""Standard deviation of a Gaussian kernel, in pixels."""
CONTRAST = (0.6, 0.35, 0.2)
"""Factor of each pixel's distance from its image's mean."""


def noise(x: Tensor, severity: int) -> Tensor:
    generator = torch.Generator().manual_seed(severity)
    return x + NOISE[severity] * torch.randn(x.shape, generator=generator)


def blur(x: Tensor, severity: int) -> Tensor:
    blurred: Tensor = gaussian_blur(x, kernel_size=[9, 9], sigma=[BLUR[severity]] * 2)
    return blurred


def contrast(x: Tensor, severity: int) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return mean + CONTRAST[severity] * (x - mean)


CORRUPTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "gaussian_noise": noise,
    "gaussian_blur": blur,
    "contrast": contrast,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Make corrupted test images, laid out as CIFAR-10-C.")
    parser.add_argument("root", help="directory with test/CLASS/IMAGE")
    parser.add_argument("out", type=Path, help="directory for the files")
    arguments = parser.parse_args()
    test = ImageFolderDataModule(arguments.root).load().test
    x = test.images.float() / 255
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, corrupt in CORRUPTIONS.items():
        made = [corrupt(x, severity).clamp(0, 1).mul(255).round().byte() for severity in range(3)]
        np.save(arguments.out / f"{name}.npy", torch.cat(made).permute(0, 2, 3, 1).contiguous().numpy())
    np.save(arguments.out / "labels.npy", test.labels.repeat(3).numpy())


if __name__ == "__main__":
    main()
