"""Square Attack (Andriushchenko et al. 2020, arXiv 1912.00049): random search, without gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor, nn

from qra.attacks.base import EvaluationAttack, replayed
from qra.attacks.state import AttackState, length, unit
from qra.checks import check_choice, check_count, pixel_length
from qra.types import Norm, Pixels

_TINY = 1e-12
_SHRINK_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(frozen=True)
class Square(EvaluationAttack):
    """Changes one random square at a time, and keeps the change where the margin shrinks.

    Andriushchenko et al. 2020, algorithms 1 to 3, with the random draws of the authors' code: on the same images, with
    the same seed, the same examples break.

    Args:
        eps: Radius of the ball, in pixel units.
        norm: Norm of the ball.
        queries: Number of changes tried.
        p_init: Share of the image that the first squares cover.
        seed: Chooses the squares and their colours.

    Raises:
        ValueError: If a setting is out of its range; when called in L2, if an image is smaller than 5 pixels.
    """

    eps: Pixels = 8 / 255
    norm: Norm = "linf"
    queries: int = 5000
    p_init: float = 0.8
    seed: int = 0

    takes_gradients = False
    needs_fixed_chunks = True

    def __post_init__(self) -> None:
        check_choice("norm", self.norm, get_args(Norm))
        check_count("queries", self.queries, 1)
        object.__setattr__(self, "eps", pixel_length("eps", self.eps, self.norm))

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
        generator = torch.Generator().manual_seed(self.seed)
        search = _Squares(self, state, left, generator) if self.norm == "linf" else _Bumps(self, state, left, generator)
        kept = state.record_success(left, search.fooled, search.x_adv, at_once=True)
        done = 0
        while True:
            if kept is not None:
                search.keep(kept)
            if done == self.queries or len(search.left) == 0:
                break
            queries = range(done, min(done + search.at_a_time, self.queries))
            for fooled, x_adv in search.try_changes(queries):
                kept = state.record_success(search.left, fooled, x_adv, at_once=search.at_a_time == 1)
            done = queries.stop
            state.on_step(len(queries))
        state.judge()

    def work(self, classes: int) -> float:
        return self.queries

    def share(self, query: int) -> float:
        """Share of the image that a square covers in a query, counted from 0."""
        return self.p_init * 0.5 ** sum(query > step for step in _SHRINK_AT)

    def side(self, query: int, height: int, width: int) -> int:
        """Side of the square in a query, in pixels; odd and at least 3 in L2."""
        side = round(math.sqrt(self.share(query) * height * width))
        side = max(side, 1) if self.norm == "linf" else max(side, 3) // 2 * 2 + 1
        return min(side, height, width)


class _Search:
    """Random search on some examples, one row for each in all its tensors.

    Attributes:
        at_a_time: Queries between two looks at which examples are left. One, where what is drawn depends on how many.
    """

    at_a_time = 1

    def __init__(self, attack: Square, state: AttackState, left: Tensor, generator: torch.Generator) -> None:
        self.attack, self.network, self.generator = attack, state.search, generator
        self.left, self.x, self.y = left, state.x[left], state.y[left]
        self.x_adv = self.start()
        self.margin = self.look(self.x_adv)
        self.fooled = self.margin <= 0

    def start(self) -> Tensor:
        """The first perturbed images."""
        raise NotImplementedError

    def try_changes(self, queries: range) -> Iterator[tuple[Tensor, Tensor]]:
        """Change all images where that helps, and yield, after each query, which are fooled, and the images."""
        raise NotImplementedError

    def look(self, x_adv: Tensor) -> Tensor:
        """By how much the label's logit exceeds all others, (N,)."""
        return _margin(self.network(x_adv), self.y)

    def rand(self, *shape: int) -> Tensor:
        """Uniform on [0, 1), drawn on the CPU so that every device draws the same."""
        return torch.rand(shape, generator=self.generator)

    def signs(self, *shape: int) -> Tensor:
        """+1 or -1."""
        return (2 * self.rand(*shape) - 1).sign().to(self.x)

    def corner(self, side: int) -> tuple[slice, slice]:
        """A random window of the image."""
        height, width = self.x.shape[2:]
        top, left = (int(extent * self.rand(1)) for extent in (height - side, width - side))
        return slice(top, top + side), slice(left, left + side)

    def keep(self, kept: Tensor) -> None:
        """Go on with some of the examples."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[kept])


class _Squares(_Search):
    """L-inf: squares of one colour, each channel at one end of what is allowed."""

    def __init__(self, attack: Square, state: AttackState, left: Tensor, generator: torch.Generator) -> None:
        super().__init__(attack, state, left, generator)
        self.at_a_time = state.patience
        self.low, self.high = (self.x - attack.eps).clamp_(min=0), (self.x + attack.eps).clamp_(max=1)

    def start(self) -> Tensor:
        n, channels, _, width = self.x.shape
        return (self.x + self.attack.eps * self.signs(n, channels, 1, width)).clamp_(0, 1)

    def try_changes(self, queries: range) -> Iterator[tuple[Tensor, Tensor]]:
        inside, change = (drawn.expand(len(self.x), *drawn.shape) for drawn in self._draw(queries))
        state = self.x_adv, self.margin, self.low, self.high, self.y, inside, change
        self.margin, fooled, images = replayed(self.network, _Queries(), *state)
        self.x_adv = images[:, -1]
        yield from zip(fooled.unbind(1), images.unbind(1), strict=True)

    def _draw(self, queries: range) -> tuple[Tensor, Tensor]:
        """Where the square of each query lies, bool (Q, 1, H, W), and the change of its channels, (Q, C, 1, 1).

        They are drawn in the order of the authors' code: top, left, channels.
        """
        channels, height, width = self.x.shape[1:]
        draws = self.rand(len(queries), 2 + channels)
        sides = torch.tensor([self.attack.side(query, height, width) for query in queries])
        rows, columns = (
            _between(((extent - sides) * draws[:, axis]).long(), sides, extent)
            for axis, extent in enumerate((height, width))
        )
        inside = rows[:, None, :, None] & columns[:, None, None, :]
        change = 2.0 * self.attack.eps * (2 * draws[:, 2:, None, None] - 1).sign()
        return inside.to(self.x.device, non_blocking=True), change.to(self.x, non_blocking=True)


@dataclass(frozen=True)
class _Queries:
    """Change a square of each image, one query after the other, and keep the changes where the margin shrinks."""

    def __call__(
        self,
        model: nn.Module,
        x_adv: Tensor,
        margin: Tensor,
        low: Tensor,
        high: Tensor,
        y: Tensor,
        inside: Tensor,
        change: Tensor,
    ) -> tuple[Tensor, ...]:
        fooled, images = [], []
        for here, by in zip(inside.unbind(1), change.unbind(1), strict=True):
            x_new = torch.where(here, (x_adv + by).clamp_(low, high), x_adv)
            found = _margin(model(x_new), y)
            fooled.append(found <= 0)
            improved = (found < margin) | fooled[-1]
            x_adv = torch.where(improved[:, None, None, None], x_new, x_adv)
            margin = torch.where(improved, found, margin)
            images.append(x_adv)
        return margin, torch.stack(fooled, 1), torch.stack(images, 1)


def _margin(logits: Tensor, y: Tensor) -> Tensor:
    others = logits.scatter(1, y[:, None], -math.inf).amax(1)
    return logits.gather(1, y[:, None])[:, 0] - others


def _between(first: Tensor, count: Tensor, extent: int) -> Tensor:
    """Which of 0 to ``extent - 1`` are among the ``count`` from ``first`` on: (Q,) twice to bool (Q, extent)."""
    places = torch.arange(extent) - first[:, None]
    return (places >= 0) & (places < count[:, None])


class _Bumps(_Search):
    """L2: the perturbation of one window moves into another, with a new pair of bumps on it."""

    def start(self) -> Tensor:
        n, channels, height, width = self.x.shape
        side = height // 5
        if side == 0:
            raise ValueError(f"images are {height} pixels high: Square in L2 needs at least 5")
        delta = torch.zeros_like(self.x)
        first = (height - side * 5) // 2
        for row in range(height // side):
            for column in range(width // side):
                top, left = first + row * side, first + column * side
                tile = delta[:, :, top : top + side, left : left + side]
                bumps = self.bumps(side) * self.signs(n, channels, 1, 1)
                tile += bumps[:, :, : tile.shape[2], : tile.shape[3]]
        return (self.x + unit(delta, "l2") * self.attack.eps).clamp_(0, 1)

    def try_changes(self, queries: range) -> Iterator[tuple[Tensor, Tensor]]:
        for query in queries:
            self._try_change(query)
            yield self.fooled, self.x_adv

    def _try_change(self, query: int) -> None:
        """Change a window of all images, where that helps."""
        n, channels, height, width = self.x.shape
        side = self.attack.side(query, height, width)
        delta = self.x_adv - self.x
        rows, columns = self.corner(side)
        rows_2, columns_2 = self.corner(side)
        here = delta[:, :, rows, columns]
        mask = torch.zeros_like(self.x[:1, :1])
        mask[:, :, rows, columns] = 1
        mask[:, :, rows_2, columns_2] = 1
        freed = ((delta * mask) ** 2).sum((2, 3), keepdim=True).sqrt()
        unused = (torch.full_like(freed, self.attack.eps) ** 2 - length(delta, "l2") ** 2).clamp_(min=0)
        bumps = self.bumps(side) * self.signs(n, channels, 1, 1)
        bumps = bumps + here / (_TINY + (here**2).sum((2, 3), keepdim=True).sqrt())
        bumps = bumps / (_TINY + (bumps**2).sum((2, 3), keepdim=True).sqrt()) * (unused / channels + freed**2).sqrt()
        delta[:, :, rows_2, columns_2] = 0
        delta[:, :, rows, columns] = bumps
        x_new = (self.x + unit(delta, "l2") * self.attack.eps).clamp_(0, 1)
        margin = self.look(x_new)
        self.fooled = margin <= 0
        improved = (margin < self.margin) | self.fooled
        self.x_adv = torch.where(improved[:, None, None, None], x_new, self.x_adv)
        self.margin = torch.where(improved, margin, self.margin)

    def bumps(self, side: int) -> Tensor:
        """One bump up and one down, side by side or one above the other, of L2 norm 1, (side, side)."""
        pair = torch.cat([_bump(side // 2, side), -_bump(side - side // 2, side)])
        pair = pair / (pair**2).sum().sqrt()
        return (pair.T if self.rand(1) > 0.5 else pair).to(self.x)


def _bump(height: int, width: int) -> Tensor:
    """Rings around a point, each fainter than the one inside it, of L2 norm 1, (height, width)."""
    bump = torch.zeros(height, width)
    top, left = height // 2, width // 2
    for ring in range(max(height, width) // 2 + 1):
        rows = slice(max(top - ring, 0), min(top + ring + 1, height))
        columns = slice(max(left - ring, 0), min(left + ring + 1, width))
        bump[rows, columns] += 1 / (ring + 1) ** 2
    return bump / (bump**2).sum().sqrt()
