"""AutoAttack (Croce and Hein 2020, arXiv 2003.01690): four attacks in sequence, each on the remaining survivors."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, get_args

from qra.attacks.apgd import APGD
from qra.attacks.base import Attack, EvaluationAttack
from qra.attacks.fab import FAB
from qra.attacks.pass_count import PassCount
from qra.attacks.square import Square
from qra.attacks.state import AttackState
from qra.checks import check_choice, check_count, pixel_length
from qra.types import Norm, Pixels


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
        _check(self)
        check_count("queries", self.queries, 1)

    @property
    def standard(self) -> str:
        return "" if self._changes() else "AutoAttack"

    @property
    def title(self) -> str:
        changes = self._changes()
        return f"shortened AutoAttack ({', '.join(changes)})" if changes else "AutoAttack"

    def _changes(self) -> list[str]:
        usual = {"steps": 100, "targets": 9, "queries": 5000}
        return [f"{getattr(self, name)} {name}" for name, value in usual.items() if getattr(self, name) != value]

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
        _check(self)

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


def _check(attack: Any) -> None:
    check_choice("norm", attack.norm, get_args(Norm))
    for name in ("steps", "targets"):
        check_count(name, getattr(attack, name), 1)
    object.__setattr__(attack, "eps", pixel_length("eps", attack.eps, attack.norm))


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
