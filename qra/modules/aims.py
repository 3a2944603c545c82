"""Checks that an attack fits its use: what it moves away from, and that it is untargeted."""

from __future__ import annotations

from qra.attacks import FGSM, PGD, Attack

INNER = "the inner maximization of this method"


def check_attack(attack: Attack, on_logits: bool, use: str = INNER) -> None:
    """Check that an attack is untargeted and compares with logits or with labels, as its use requires.

    Args:
        attack: The attack.
        on_logits: Whether the attack will be given logits rather than labels.
        use: What the attack is used for, in words, for the error message.

    Raises:
        ValueError: If the attack is targeted, or takes labels where logits are given or the reverse.
    """
    if attack.aim == "targets" or getattr(attack, "targeted", False):
        raise ValueError(f"the attack is targeted, but {use} needs an untargeted one: set targeted to false")
    if attack.aim != ("logits" if on_logits else "labels"):
        wanted = "compares with logits: set its loss to kl" if on_logits else "uses labels: its loss cannot be kl"
        named = isinstance(attack, PGD | FGSM)
        given = f"has the loss {getattr(attack, 'loss', 'cross_entropy')}" if named else f"takes {attack.aim}"
        raise ValueError(f"the attack {given}, but {use} {wanted}")
