"""Random search on the survivors of gradient attacks, starting from where those ended."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qra import noise
from qra.attacks.base import EvaluationAttack
from qra.attacks.pass_count import PassCount
from qra.attacks.search import SearchInSquares, squares
from qra.attacks.state import AttackState
from qra.checks import check_attack
from qra.types import Pixels

_SIDES = (6, 4, 3, 2, 1)
_BLOCK = 100  # queries drawn at once


@dataclass(frozen=True)
class Polish(EvaluationAttack):
    """Random search from the image of lowest margin that earlier attacks saw, with small squares.

    A network with rounded activations is flat around the points where gradient attacks end. Each query picks a square,
    with a side of 6 pixels at first and 1 at the end, and moves each channel to one of the two ends of the ball or
    leaves it unchanged. A change is kept if it lowers the margin. Without earlier attacks, the search starts from the
    clean image. Random draws depend only on the seed and an image's position in its data set.

    Args:
        eps: Radius of the L-inf ball, in pixel units.
        queries: Number of changes tried.
        seed: Seed of the squares and their changes.

    Raises:
        ValueError: If a setting is out of range.
    """

    eps: Pixels = 8 / 255
    queries: int = 4000
    seed: int = 0

    takes_gradients = False

    def __post_init__(self) -> None:
        check_attack(self, "queries")

    @property
    def title(self) -> str:
        return "Polish" if self.queries == 4000 else f"Polish, {self.queries} queries"

    @torch.no_grad()
    def run(self, state: AttackState) -> None:
        left = state.survivors()
        if len(left) and self.eps:
            _Polishing(self, state, left).run(state, self.queries)

    def passes(self, classes: int) -> PassCount:
        return PassCount(self.queries)

    def side(self, query: int) -> int:
        """Return the side of the square in a query, in pixels."""
        return _SIDES[len(_SIDES) * query // self.queries]


class _Polishing(SearchInSquares):
    """Search in squares that are drawn independently for each image."""

    def __init__(self, attack: Polish, state: AttackState, left: Tensor) -> None:
        super().__init__(attack.eps, state, left, state.received_closest(left))
        self.attack, self.index, self._block = attack, state.index[left], -1

    def draw(self, queries: range) -> tuple[Tensor, Tensor]:
        channels, height, width = self.x.shape[1:]
        draws = torch.stack([self._drawn(query) for query in queries], 1)
        sides = torch.tensor([min(self.attack.side(query), height, width) for query in queries], device=draws.device)
        top, left = (((extent - sides + 1) * draws[..., axis]).long() for axis, extent in enumerate((height, width)))
        way = (3 * draws[..., 2 : 2 + channels]).long() - 1
        change = (2.0 * self.eps * way[..., None, None]).to(self.x)
        return squares(top, left, sides.expand_as(top), height, width), change

    def _drawn(self, query: int) -> Tensor:
        """Return the uniform random numbers of a query, (N, 2 + C)."""
        if query // _BLOCK != self._block:
            self._block = query // _BLOCK
            shape = (_BLOCK, 2 + self.x.shape[1])
            key = (noise.Stream.POLISH, self.attack.seed, self._block)
            self._draws = noise.uniform(shape, self.index, *key)
        return self._draws[:, query % _BLOCK]
