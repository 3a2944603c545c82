"""The work of a command, counted beforehand for dry runs."""

from __future__ import annotations

from typing import NamedTuple

from qra.attacks import Attack, PassCount
from qra.data import ImageDataModule


class Workload(NamedTuple):
    """A number of images that are run through a network."""

    what: str
    """Description for people."""
    images: int
    passes: PassCount
    """Passes of each image, as long as no attack breaks it."""


def passes_of(attack: Attack, classes: int) -> PassCount:
    """Return the passes for an image that the attack does not break; zero if its budget is 0.

    An attack that declares only its work, not its passes, is assumed to run forward passes only.

    Args:
        attack: The attack.
        classes: Number of classes of the network.
    """
    if getattr(attack, "eps", None) == 0:
        return PassCount(0)
    only_work = not _says_passes(attack) and type(attack).work is not Attack.work
    return PassCount(attack.work(classes)) if only_work else attack.passes(classes)


def attack_workload(what: str, n: int | None, attack: Attack, data: ImageDataModule) -> Workload:
    """Return the workload of an attack on ``n`` test images, or on all."""
    known = _says_passes(attack) or type(attack).work is not Attack.work
    doubt = "" if known else f" (counted as one pass: {type(attack).__name__} does not report its number of passes)"
    return Workload(what + doubt, test_images(n, data), passes_of(attack, data.num_classes))


def _says_passes(attack: Attack) -> bool:
    return type(attack).passes is not Attack.passes


def test_images(n: int | None, data: ImageDataModule) -> int:
    """Return the number of test images in an evaluation of ``n``, or of all."""
    size = data.size("test")
    return size if n is None else min(n, size)
