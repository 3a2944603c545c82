"""AutoAttack (Croce and Hein 2020, arXiv 2003.01690): four attacks in sequence, each on the remaining survivors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from qra.attacks.apgd import APGD
from qra.attacks.base import Attack, EvaluationAttack
from qra.attacks.fab import FAB
from qra.attacks.pass_count import PassCount
from qra.attacks.square import Square
from qra.attacks.state import AttackState
from qra.checks import check_attack
from qra.types import Norm, Pixels

AUTOATTACK = "AutoAttack"
"""Name of the published protocol, which only the standard version may carry."""
STANDARD = {"steps": 100, "targets": 9, "queries": 5000}
"""Settings of the standard version, which leaves the ball and the seed open."""


def shortened(name: str, settings: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """Return the title of a cascade: its name, or for example ``shortened AutoAttack (20 steps)``.

    Settings that are missing are the usual ones.
    """
    changes = [f"{settings[key]} {key}" for key, value in usual.items() if settings.get(key, value) != value]
    return f"shortened {name} ({', '.join(changes)})" if changes else name


class Cascade(EvaluationAttack):
    """Several attacks in sequence, each on the survivors of the previous ones; a subclass implements :meth:`members`.

    Members that need fixed chunks draw their random numbers per chunk.
    """

    needs_fixed_chunks = True

    @abstractmethod
    def members(self) -> dict[str, Attack]: ...

    def run(self, state: AttackState) -> None:
        if (reason := self.unsuited(state)) is not None:
            raise ValueError(reason)
        for member in self.members().values():
            member.run(state)

    def passes(self, classes: int) -> PassCount:
        return reduce(PassCount.plus, (member.passes(classes) for member in self.members().values()))


@dataclass(frozen=True)
class AutoAttack(Cascade):
    """The standard AutoAttack: APGD on the cross-entropy, targeted APGD, targeted FAB, and Square.

    This implementation is optimized for speed and tested against the authors' code: schedules and random draws are the
    same, so that on the same network the same examples break. With other numbers of steps, targets or queries it is not
    the standard version, and its title says so.

    Args:
        eps: Radius of the ball, in pixel units.
        norm: Norm of the ball.
        seed: Seed of all random draws; each of the four attacks starts from it.
        steps: Steps of APGD and FAB, for each target. The standard version has 100.
        targets: Number of classes that targeted APGD and FAB aim at, the most likely wrong ones first; all wrong
            classes if there are fewer. The standard version has 9.
        queries: Queries of Square. The standard version has 5000.

    Raises:
        ValueError: If a setting is out of range; when called, if the network has fewer than 4 classes or returns
            probabilities.
    """

    eps: Pixels = 8 / 255
    norm: Norm = "linf"
    seed: int = 0
    steps: int = 100
    targets: int = 9
    queries: int = 5000

    def __post_init__(self) -> None:
        check_attack(self, "steps", "targets", "queries")

    @property
    def standard(self) -> str:
        return AUTOATTACK if self.title == AUTOATTACK else ""

    @property
    def title(self) -> str:
        return shortened(AUTOATTACK, vars(self), STANDARD)

    @property
    def key(self) -> str:
        return "autoattack"

    def in_chunk(self, number: int) -> AutoAttack:
        return replace(self, seed=self.seed + number)

    def members(self) -> dict[str, Attack]:
        square = Square(self.eps, self.norm, self.queries, seed=self.seed)
        return {**_with_gradients(self), "square": square}

    def unsuited(self, state: AttackState) -> str | None:
        return unsuited(state)


@dataclass(frozen=True)
class WhiteBoxAttacks(Cascade):
    """The three gradient-based attacks of AutoAttack. Without Square they cost a fifth of it, and are not AutoAttack.

    Args:
        eps: Radius of the ball, in pixel units.
        norm: Norm of the ball.
        seed: Seed of the random draws.
        steps: Steps for each target.
        targets: Number of classes aimed at, the most likely wrong ones first; all wrong classes if there are fewer.

    Raises:
        ValueError: As for :class:`AutoAttack`.
    """

    eps: Pixels = 8 / 255
    norm: Norm = "linf"
    seed: int = 0
    steps: int = 100
    targets: int = 9

    def __post_init__(self) -> None:
        check_attack(self, "steps", "targets")

    @property
    def title(self) -> str:
        return f"APGD-CE, APGD-T and FAB-T ({self.steps} steps, {self.targets} targets)"

    @property
    def key(self) -> str:
        return "white_box"

    def in_chunk(self, number: int) -> WhiteBoxAttacks:
        return replace(self, seed=self.seed + number)

    def members(self) -> dict[str, Attack]:
        return _with_gradients(self)

    def unsuited(self, state: AttackState) -> str | None:
        return unsuited(state)


def _with_gradients(attack: AutoAttack | WhiteBoxAttacks) -> dict[str, Attack]:
    ball = (attack.eps, attack.norm)
    return {
        "apgd_ce": APGD(*ball, "cross_entropy", attack.steps, seed=attack.seed),
        "apgd_t": APGD(*ball, "targeted_dlr", attack.steps, attack.targets, attack.seed),
        "fab_t": FAB(*ball, attack.steps, attack.targets),
    }


def unsuited(state: AttackState) -> str | None:
    """Return why AutoAttack does not suit a network, or None if it does."""
    logits = state.clean_logits
    if state.classes < 4:
        return (
            f"the network has {state.classes} classes: AutoAttack's targeted DLR loss needs at least 4 (and even the "
            "untargeted one 3): use PGD"
        )
    sums_to_one = ((logits.sum(1) - 1).abs() < 1e-5).all()
    if len(logits) and logits.min() > -1e-5 and logits.max() < 1 + 1e-5 and sums_to_one:
        return "the network returns probabilities: AutoAttack needs logits, the values before the softmax"
    return None
