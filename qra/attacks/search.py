"""Random search on examples under attack: changes that are kept where the margin shrinks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qra.attacks.base import replayed
from qra.attacks.state import AttackState, margin_of


class Search(ABC):
    """Random search on some examples, one row for each in all its tensors.

    Attributes:
        at_a_time: Queries between two looks at which examples are left. One, where what is drawn depends on how many.
    """

    at_a_time = 1

    def __init__(self, state: AttackState, left: Tensor) -> None:
        self.network = state.search
        self.left, self.x, self.y = left, state.x[left], state.y[left]
        self.x_adv = self.start()
        self.margin = margin_of(self.network(self.x_adv), self.y)
        self.fooled = self.margin <= 0

    @abstractmethod
    def start(self) -> Tensor:
        """The first perturbed images."""

    @abstractmethod
    def try_changes(self, queries: range) -> Iterator[tuple[Tensor, Tensor]]:
        """Change all images where that helps, and yield, after each query, which are fooled, and the images."""

    def run(self, state: AttackState, queries: int) -> None:
        """Search until all examples are broken or all queries are made."""
        kept = state.record_success(self.left, self.fooled, self.x_adv, at_once=True)
        done = 0
        while True:
            if kept is not None:
                self.keep(kept)
            if done == queries or len(self.left) == 0:
                break
            block = range(done, min(done + self.at_a_time, queries))
            for fooled, x_adv in self.try_changes(block):
                kept = state.record_success(self.left, fooled, x_adv, at_once=self.at_a_time == 1)
            done = block.stop
            state.on_step(len(block))
        state.judge()

    def keep(self, kept: Tensor) -> None:
        """Go on with some of the examples."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[kept])


class SearchInSquares(Search):
    """L-inf: changes the channels of one square at a time, to the ends of what is allowed.

    Args:
        eps: Radius of the ball, in pixel units.
        state: The examples under attack.
        left: Positions of those that are worked on.
    """

    def __init__(self, eps: float, state: AttackState, left: Tensor) -> None:
        self.eps = eps
        super().__init__(state, left)
        self.at_a_time = state.patience
        self.low, self.high = (self.x - eps).clamp_(min=0), (self.x + eps).clamp_(max=1)

    @abstractmethod
    def draw(self, queries: range) -> tuple[Tensor, Tensor]:
        """Where the square of each query lies, bool (N, Q, 1, H, W), and its channels' change, (N, Q, C, 1, 1).

        In the place of N there may be a 1, for all examples; a change of ``2 * eps`` is one to an end.
        """

    def try_changes(self, queries: range) -> Iterator[tuple[Tensor, Tensor]]:
        inside, change = (drawn.expand(len(self.x), *drawn.shape[1:]) for drawn in self.draw(queries))
        state = self.x_adv, self.margin, self.low, self.high, self.y, inside, change
        self.margin, fooled, images = replayed(self.network, _Changes(), *state)
        self.x_adv = images[:, -1]
        yield from zip(fooled.unbind(1), images.unbind(1), strict=True)


@dataclass(frozen=True)
class _Changes:
    """Change each image, one query after the other, and keep the changes where the margin shrinks."""

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
            found = margin_of(model(x_new), y)
            fooled.append(found <= 0)
            improved = (found < margin) | fooled[-1]
            x_adv = torch.where(improved[:, None, None, None], x_new, x_adv)
            margin = torch.where(improved, found, margin)
            images.append(x_adv)
        return margin, torch.stack(fooled, 1), torch.stack(images, 1)


def squares(top: Tensor, left: Tensor, side: Tensor, height: int, width: int) -> Tensor:
    """Squares in an image, by their corners and sides: (..., Q) each to bool (..., Q, 1, H, W)."""
    rows, columns = _between(top, side, height), _between(left, side, width)
    return (rows[..., :, None] & columns[..., None, :]).unsqueeze(-3)


def _between(first: Tensor, count: Tensor, extent: int) -> Tensor:
    """Which of 0 to ``extent - 1`` are among the ``count`` from ``first`` on: (..., Q) to bool (..., Q, extent)."""
    places = torch.arange(extent, device=first.device) - first[..., None]
    return (places >= 0) & (places < count[..., None])
