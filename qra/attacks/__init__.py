"""Attacks as frozen dataclasses: ``attack(model, x, y, index=..., epoch=...)`` returns adversarial images."""

from qra.attacks.apgd import APGD
from qra.attacks.autoattack import AutoAttack, Cascade, WhiteBoxAttacks
from qra.attacks.base import Attack, EvaluationAttack
from qra.attacks.disagreement import DisagreementPGD, SideBySide
from qra.attacks.fab import FAB
from qra.attacks.fgsm import FGSM
from qra.attacks.fmn import FMN
from qra.attacks.pass_count import PassCount
from qra.attacks.pgd import PGD
from qra.attacks.polish import Polish
from qra.attacks.rounding import RoundingCascade, UnroundedAPGD
from qra.attacks.square import Square
from qra.attacks.start import GaussianStart, Start, UniformStart, ZeroStart
from qra.attacks.state import AttackState

__all__ = [
    "APGD",
    "FAB",
    "FGSM",
    "FMN",
    "PGD",
    "Attack",
    "AttackState",
    "AutoAttack",
    "Cascade",
    "DisagreementPGD",
    "EvaluationAttack",
    "GaussianStart",
    "PassCount",
    "Polish",
    "RoundingCascade",
    "SideBySide",
    "Square",
    "Start",
    "UniformStart",
    "UnroundedAPGD",
    "WhiteBoxAttacks",
    "ZeroStart",
]
