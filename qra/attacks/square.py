"""Square Attack (Andriushchenko et al. 2020, arXiv 1912.00049): random search, without gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qra.attacks.base import EvaluationAttack
from qra.attacks.pass_count import PassCount
from qra.attacks.search import Search, SearchInSquares, squares
from qra.attacks.state import AttackState, length, margin_of, unit
from qra.checks import check_attack, check_in
from qra.types import Norm, Pixels

_TINY = 1e-12
_AHEAD = 256
"""Queries drawn at once, a multiple of those between two checks of which examples are left."""
_SHRINK_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(frozen=True)
class Square(EvaluationAttack):
    """Changes one random square at a time, and keeps the change if it lowers the margin.

    Andriushchenko et al. 2020, algorithms 1 to 3, with the random draws of the authors' code: on the same images, with
    the same seed, the same examples break.

    Args:
        eps: Radius of the ball, in pixel units.
        norm: Norm of the ball.
        queries: Number of changes tried.
        p_init: Fraction of the image that the first squares cover.
        seed: Seed of the squares and their colours.

    Raises:
        ValueError: If a setting is out of range; when called in L2, if images are less than 5 pixels high.
    """

    eps: Pixels = 8 / 255
    norm: Norm = "linf"
    queries: int = 5000
    p_init: float = 0.8
    seed: int = 0

    takes_gradients = False
    needs_fixed_chunks = True

    def __post_init__(self) -> None:
        check_in("p_init", self.p_init, "(0, 1]")
        check_attack(self, "queries")

    @property
    def title(self) -> str:
        return "Square" if self.queries == 5000 else f"Square, {self.queries} queries"

    def in_chunk(self, number: int) -> Square:
        return replace(self, seed=self.seed + number)

    @torch.no_grad()
    def run(self, state: AttackState) -> None:
        left = state.survivors()
        if len(left) == 0 or self.eps == 0:
            return
        search = _Squares if self.norm == "linf" else _Bumps
        search(self, state, left).run(state, self.queries)

    def passes(self, classes: int) -> PassCount:
        return PassCount(self.queries)

    def share(self, query: int) -> float:
        """Return the fraction of the image that the square of a query covers, with queries counted from 0."""
        return self.p_init * 0.5 ** sum(query > step for step in _SHRINK_AT)

    def side(self, query: int, height: int, width: int) -> int:
        """Return the side of a query's square, in pixels; in L2 odd and at least 3 unless the image is smaller."""
        side = round(math.sqrt(self.share(query) * height * width))
        side = max(side, 1) if self.norm == "linf" else max(side, 3) // 2 * 2 + 1
        return min(side, height, width)


class _Draws:
    """The random draws of the authors' code, made on the CPU so that every device draws the same."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def rand(self, *shape: int) -> Tensor:
        """Draw uniform numbers from [0, 1)."""
        return torch.rand(shape, generator=self._generator)

    def signs(self, *shape: int) -> Tensor:
        """Draw random signs, +1 or -1."""
        return (2 * self.rand(*shape) - 1).sign()

    def window(self, side: int, height: int, width: int) -> tuple[slice, slice]:
        """Draw a random square window of the image, as slices of rows and columns."""
        top, left = (int(extent * self.rand(1)) for extent in (height - side, width - side))
        return slice(top, top + side), slice(left, left + side)

    def bumps(self, side: int) -> Tensor:
        """Draw a positive and a negative bump, side by side or one above the other, of L2 norm 1, (side, side)."""
        pair = torch.cat([_bump(side // 2, side), -_bump(side - side // 2, side)])
        pair = pair / (pair**2).sum().sqrt()
        return pair.T if self.rand(1) > 0.5 else pair


class _Squares(SearchInSquares):
    """L-inf search with squares of one colour, the same for all images."""

    def __init__(self, attack: Square, state: AttackState, left: Tensor) -> None:
        self.attack, self.draws, self.drawn = attack, _Draws(attack.seed), range(0)
        x = state.x[left]
        n, channels, _, width = x.shape
        stripes = attack.eps * self.draws.signs(n, channels, 1, width).to(x)
        super().__init__(attack.eps, state, left, (x + stripes).clamp_(0, 1))

    def draw(self, queries: range) -> tuple[Tensor, Tensor]:
        if queries.start not in self.drawn:
            self.drawn = range(queries.start, min(queries.start + _AHEAD, self.attack.queries))
            self.changes = self.draw_ahead(self.drawn)
        inside, change = self.changes
        places = slice(queries.start - self.drawn.start, queries.stop - self.drawn.start)
        return inside[:, places], change[:, places]

    def draw_ahead(self, queries: range) -> tuple[Tensor, Tensor]:
        """Draw the changes of several queries at once, since every separate draw makes the device wait."""
        # in the order of the authors' code: top, left, channels
        channels, height, width = self.x.shape[1:]
        draws = self.draws.rand(len(queries), 2 + channels)
        sides = torch.tensor([self.attack.side(query, height, width) for query in queries])
        top, left = (((extent - sides) * draws[:, axis]).long() for axis, extent in enumerate((height, width)))
        inside = squares(top, left, sides, height, width)
        change = 2.0 * self.eps * (2 * draws[:, 2:, None, None] - 1).sign()
        return inside[None].to(self.x.device, non_blocking=True), change[None].to(self.x, non_blocking=True)


class _Bumps(Search):
    """L2 search that moves the perturbation of one window into another and adds a new pair of bumps there."""

    def __init__(self, attack: Square, state: AttackState, left: Tensor) -> None:
        self.attack, self.draws = attack, _Draws(attack.seed)
        super().__init__(state, left, self._start(state.x[left]))

    def _start(self, x: Tensor) -> Tensor:
        """Return the images with tiles of bumps."""
        n, channels, height, width = x.shape
        side = height // 5
        if side == 0:
            raise ValueError(f"images are {height} pixels high: Square in L2 needs at least 5")
        delta = torch.zeros_like(x)
        first = (height - side * 5) // 2
        for row in range(height // side):
            for column in range(width // side):
                top, left = first + row * side, first + column * side
                tile = delta[:, :, top : top + side, left : left + side]
                bumps = self.draws.bumps(side).to(x) * self.draws.signs(n, channels, 1, 1).to(x)
                tile += bumps[:, :, : tile.shape[2], : tile.shape[3]]
        return (x + unit(delta, "l2") * self.attack.eps).clamp_(0, 1)

    def try_changes(self, queries: range) -> Iterator[tuple[Tensor, Tensor]]:
        for query in queries:
            self._try_change(query)
            yield self.fooled, self.x_adv

    def _try_change(self, query: int) -> None:
        """Change a window of all images, and keep the change where it lowers the margin."""
        n, channels, height, width = self.x.shape
        side = self.attack.side(query, height, width)
        delta = self.x_adv - self.x
        rows, columns = self.draws.window(side, height, width)
        rows_2, columns_2 = self.draws.window(side, height, width)
        here = delta[:, :, rows, columns]
        mask = torch.zeros_like(self.x[:1, :1])
        mask[:, :, rows, columns] = 1
        mask[:, :, rows_2, columns_2] = 1
        freed = ((delta * mask) ** 2).sum((2, 3), keepdim=True).sqrt()
        unused = (torch.full_like(freed, self.attack.eps) ** 2 - length(delta, "l2") ** 2).clamp_(min=0)
        bumps = self.draws.bumps(side).to(self.x) * self.draws.signs(n, channels, 1, 1).to(self.x)
        bumps = bumps + here / (_TINY + (here**2).sum((2, 3), keepdim=True).sqrt())
        bumps = bumps / (_TINY + (bumps**2).sum((2, 3), keepdim=True).sqrt()) * (unused / channels + freed**2).sqrt()
        delta[:, :, rows_2, columns_2] = 0
        delta[:, :, rows, columns] = bumps
        x_new = (self.x + unit(delta, "l2") * self.attack.eps).clamp_(0, 1)
        margin = margin_of(self.network(x_new), self.y)
        self.fooled = margin <= 0
        improved = (margin < self.margin) | self.fooled
        self.x_adv = torch.where(improved[:, None, None, None], x_new, self.x_adv)
        self.margin = torch.where(improved, margin, self.margin)


def _bump(height: int, width: int) -> Tensor:
    """Return rings around a point, each fainter than the one inside it, of L2 norm 1, (height, width)."""
    bump = torch.zeros(height, width)
    top, left = height // 2, width // 2
    for ring in range(max(height, width) // 2 + 1):
        rows = slice(max(top - ring, 0), min(top + ring + 1, height))
        columns = slice(max(left - ring, 0), min(left + ring + 1, width))
        bump[rows, columns] += 1 / (ring + 1) ** 2
    return bump / (bump**2).sum().sqrt()
