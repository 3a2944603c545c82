"""AutoAttack (Croce and Hein 2020, arXiv 2003.01690): four attacks, one after the other, each on what is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from qra.attacks.apgd import APGD
from qra.attacks.fab import FAB
from qra.attacks.square import Square
from qra.attacks.state import AttackState, EvaluationAttack
from qra.checks import check_choice, check_count, pixel_length
from qra.types import Norm, Pixels


@dataclass(frozen=True)
class AutoAttack(EvaluationAttack):
    """The standard version: APGD on the cross-entropy, targeted APGD, targeted FAB, Square.

    Written anew for speed and held to the authors' code by tests: same schedules, same random draws, so that on the
    same network the same examples break.

    Args:
        eps: Radius of the ball, in pixel units.
        norm: Norm of the ball.
        seed: Chooses all random draws; each of the four starts from it.
        steps: Steps of APGD and FAB, for each target. The standard version has 100.
        targets: Classes that targeted APGD and FAB aim at, the likeliest wrong ones first; all of them if there are
            fewer. The standard version has 9.
        queries: Queries of Square. The standard version has 5000.

    Raises:
        ValueError: If a setting is out of its range; when called, if the network has fewer than 4 classes or returns
            probabilities.
    """

    eps: Pixels = 8 / 255
    norm: Norm = "linf"
    seed: int = 0
    steps: int = 100
    targets: int = 9
    queries: int = 5000

    def __post_init__(self) -> None:
        check_choice("norm", self.norm, get_args(Norm))
        for name in ("steps", "targets", "queries"):
            check_count(name, getattr(self, name), 1)
        object.__setattr__(self, "eps", pixel_length("eps", self.eps, self.norm))
        if self.eps == 0:
            raise ValueError("eps is 0: nothing can be attacked, the clean accuracy says all")

    def members(self) -> dict[str, EvaluationAttack]:
        """The four attacks, by name, in their order."""
        ball = (self.eps, self.norm)
        return {
            "apgd_ce": APGD(*ball, "cross_entropy", self.steps, seed=self.seed),
            "apgd_t": APGD(*ball, "targeted_dlr", self.steps, self.targets, self.seed),
            "fab_t": FAB(*ball, self.steps, self.targets),
            "square": Square(*ball, self.queries, seed=self.seed),
        }

    def run(self, state: AttackState) -> None:
        check_network(state)
        for member in self.members().values():
            member.run(state)

    def work(self, classes: int) -> float:
        return sum(member.work(classes) for member in self.members().values())


def check_network(state: AttackState) -> None:
    """Raise ValueError if AutoAttack does not suit the network."""
    logits = state.clean_logits
    if state.classes < 4:
        raise ValueError(
            f"the network has {state.classes} classes: AutoAttack's targeted DLR loss needs at least 4 (and even the "
            "untargeted one 3): use PGD"
        )
    sums_to_one = ((logits.sum(1) - 1).abs() < 1e-5).all()
    if len(logits) and logits.min() > -1e-5 and logits.max() < 1 + 1e-5 and sums_to_one:
        raise ValueError("the network returns probabilities: AutoAttack needs logits, what comes before the softmax")
