"""What an attack is given to move away from, checked before it is run."""

from __future__ import annotations

from qra.attacks import FGSM, PGD, Attack

INNER = "the inner maximization of this method"


def check_attack(attack: Attack, on_logits: bool, use: str = INNER) -> None:
    """Refuse an attack that takes logits where labels are given, or the other way round, or is targeted.

    Args:
        attack: The attack.
        on_logits: Whether it is given logits.
        use: What it is run for, in words.

    Raises:
        ValueError: If it does.
    """
    if attack.aim == "targets" or getattr(attack, "targeted", False):
        raise ValueError(f"the attack is targeted, but {use} moves away from what is right: set targeted to false")
    if attack.aim != ("logits" if on_logits else "labels"):
        wanted = "moves away from logits: set its loss to kl" if on_logits else "is on labels: its loss cannot be kl"
        named = isinstance(attack, PGD | FGSM)
        given = f"has the loss {getattr(attack, 'loss', 'cross_entropy')}" if named else f"takes {attack.aim}"
        raise ValueError(f"the attack {given}, but {use} {wanted}")
