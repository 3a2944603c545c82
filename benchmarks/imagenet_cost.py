"""Estimated cost of ImageNet on GPUs, computed from rates measured elsewhere; nothing here was run.

    python benchmarks/imagenet_cost.py

Costs are in forward passes: an input gradient counts as two, a training step as three.
"""

from __future__ import annotations

from torchvision import models

from qra.models import resnet20
from qra.quant import cost

EPOCH_SECONDS, EPOCH_IMAGES, EPOCH_STEPS = 6.02, 49_000, 10
"""Measured on one H100: an epoch of PGD-10 training of ResNet20 on CIFAR-10 in bf16, compiled (see README.md)."""
FLOAT32 = 4.2
"""Measured on one H200: time of a gradient in strict float32 over bf16, at a batch of 1,000."""
DECODED = 415
"""Measured: images per second that one core decodes and randomly crops."""
GRADIENTS, FORWARDS = 539, 1664
"""Measured: gradients and forward passes of AutoAttack on an image that stays robust."""
IMAGES, TESTED, ROBUST, GPUS = 1_281_167, 5_000, 0.4, (1, 8)
GRADIENT, STEP = 2, 3


def rate() -> float:
    """Return the multiply-adds per second of the measured training."""
    passes = EPOCH_IMAGES * (EPOCH_STEPS * GRADIENT + STEP)
    return passes * cost(resnet20(), (3, 32, 32)).multiply_adds / EPOCH_SECONDS


def main() -> None:
    """Print the table."""
    trainings = {"plain": 0, "FGSM": 1, "PGD-3": 3}
    print("| network | " + " | ".join(f"{name}, images/s" for name in trainings), end=" | ")
    print(" | ".join(f"{name} epoch, {gpus} GPU (h)" for name in ("plain", "PGD-3") for gpus in GPUS), end=" | ")
    print(" | ".join(f"AutoAttack, {gpus} GPU (h)" for gpus in GPUS), "|")
    print("|---" * (1 + len(trainings) + 3 * len(GPUS)) + "|")
    for name in ("resnet18", "resnet50", "mobilenet_v2"):
        passes = rate() / cost(models.get_model(name), (3, 224, 224)).multiply_adds
        images = {kind: passes / (steps * GRADIENT + STEP) for kind, steps in trainings.items()}
        epochs = [IMAGES / images[kind] / 3600 / gpus for kind in ("plain", "PGD-3") for gpus in GPUS]
        attacked = TESTED * ROBUST * (GRADIENTS * GRADIENT + FORWARDS) * FLOAT32 / passes / 3600
        cells = [f"{value:,.0f}" for value in images.values()]
        cells += [f"{hours:.2g}" for hours in (*epochs, *(attacked / gpus for gpus in GPUS))]
        print("|", " | ".join((name, *cells)), "|")
    print(f"\nA core decodes {DECODED} images a second.")


if __name__ == "__main__":
    main()
