"""AutoAttack followed by attacks that find more adversarial images where activations are rounded."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qra.attacks.apgd import APGD
from qra.attacks.autoattack import STANDARD, AutoAttack, Cascade, shortened, unsuited
from qra.attacks.base import Attack, EvaluationAttack
from qra.attacks.pass_count import PassCount
from qra.attacks.polish import Polish
from qra.attacks.state import AttackState
from qra.checks import check_attack
from qra.types import Pixels


@dataclass(frozen=True)
class UnroundedAPGD(EvaluationAttack):
    """APGD on the cross-entropy of the unrounded network, from several starts; each iterate is tried on the network.

    Only an attack-time copy can provide its unrounded version, see :meth:`qra.quant.FrozenNetwork.unrounded`. On any
    other network, and on one that rounds no activations, the attack does nothing.

    Args:
        eps: Radius of the L-inf ball, in pixel units.
        steps: Number of steps from each start.
        starts: Number of starts.
        seed: Seed of the starts.

    Raises:
        ValueError: If a setting is out of range; when called, if a quantizer does not say between which values it
            rounds.
    """

    eps: Pixels = 8 / 255
    steps: int = 100
    starts: int = 3
    seed: int = 0

    needs_fixed_chunks = True
    searches_unrounded = True

    def __post_init__(self) -> None:
        check_attack(self, "steps", "starts")

    @property
    def title(self) -> str:
        return "APGD-CE on the unrounded network" + (f", {self.starts} starts" if self.starts > 1 else "")

    @property
    def key(self) -> str:
        return "unrounded"

    def in_chunk(self, number: int) -> UnroundedAPGD:
        return replace(self, seed=self.seed + number)

    def run(self, state: AttackState) -> None:
        network = state.unrounded()
        if network is None:
            return
        with state.searching_on(network):
            for start in range(self.starts):
                APGD(self.eps, steps=self.steps, seed=self.seed + start).run(state)

    def passes(self, classes: int) -> PassCount:
        return APGD(self.eps, steps=self.steps).passes(classes).times(self.starts)


@dataclass(frozen=True)
class RoundingCascade(Cascade):
    """AutoAttack, then APGD on the unrounded network, then Polish, each on the remaining survivors.

    AutoAttack follows straight-through gradients, which do not match the loss surface of rounded activations. The two
    additional attacks search where AutoAttack does not. This cascade is not AutoAttack, whose own accuracy is reported
    beside it.

    Args:
        eps: Radius of the L-inf ball, in pixel units.
        seed: Seed of all random draws.
        steps: Steps of APGD and FAB, for each target and start.
        targets: Number of classes that AutoAttack aims at.
        queries: Queries of Square.
        starts: Starts on the unrounded network.
        polish: Queries of Polish.

    Raises:
        ValueError: As for :class:`AutoAttack`, and if ``starts`` or ``polish`` is out of range.
    """

    eps: Pixels = 8 / 255
    seed: int = 0
    steps: int = 100
    targets: int = 9
    queries: int = 5000
    starts: int = 3
    polish: int = 4000

    searches_unrounded = True

    def __post_init__(self) -> None:
        check_attack(self, "polish")
        self.members()

    @property
    def title(self) -> str:
        usual = vars(type(self)())
        names = (*STANDARD, "starts", "polish")
        return shortened("rounding cascade", vars(self), {name: usual[name] for name in names})

    def in_chunk(self, number: int) -> RoundingCascade:
        return replace(self, seed=self.seed + number)

    def members(self) -> dict[str, Attack]:
        return {
            **self._autoattack.members(),
            "unrounded": UnroundedAPGD(self.eps, self.steps, self.starts, self.seed),
            "polish": Polish(self.eps, self.polish, self.seed),
        }

    def prefixes(self) -> list[Attack]:
        return [self._autoattack]

    def unsuited(self, state: AttackState) -> str | None:
        return unsuited(state)

    @property
    def _autoattack(self) -> AutoAttack:
        return AutoAttack(self.eps, "linf", self.seed, self.steps, self.targets, self.queries)
