"""Losses as pure functions of logits and features."""

from qra.losses.adversarial import mart, trades
from qra.losses.attack import cross_entropy, cw_margin, dlr, kl, prediction, targeted_dlr
from qra.losses.transfer import Reduction, adaad, ard, iad, lwf, rrm, rslad
from qra.precision import at_least_float32

__all__ = [
    "Reduction",
    "adaad",
    "ard",
    "at_least_float32",
    "cross_entropy",
    "cw_margin",
    "dlr",
    "iad",
    "kl",
    "lwf",
    "mart",
    "prediction",
    "rrm",
    "rslad",
    "targeted_dlr",
    "trades",
]
