"""Losses as pure functions of logits."""

from qra.losses.attack import cross_entropy, cw_margin, dlr, kl, targeted_dlr

__all__ = ["cross_entropy", "cw_margin", "dlr", "kl", "targeted_dlr"]
