"""Attacks as frozen settings: ``attack(model, x, y, index=..., epoch=...)`` returns adversarial images."""

from qra.attacks.base import Attack
from qra.attacks.disagreement import DisagreementPGD, SideBySide
from qra.attacks.fgsm import FGSM
from qra.attacks.pgd import PGD
from qra.attacks.start import GaussianStart, Start, UniformStart, ZeroStart

__all__ = [
    "FGSM",
    "PGD",
    "Attack",
    "DisagreementPGD",
    "GaussianStart",
    "SideBySide",
    "Start",
    "UniformStart",
    "ZeroStart",
]
