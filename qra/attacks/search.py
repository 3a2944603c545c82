"""Random search on examples under attack, which keeps a change if it lowers the margin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qra.attacks.base import replayed
from qra.attacks.state import AttackState, margin_of


class Search(ABC):
    """Random search on some examples; each of its tensors has one row per example.

    Attributes:
        at_a_time: Number of queries between two checks of which examples are left. It is 1 where the random draws
            depend on how many are left.

    Args:
        state: The examples under attack.
        left: Positions of the examples to work on.
        start: Their initial perturbed images.
    """

    at_a_time = 1

    def __init__(self, state: AttackState, left: Tensor, start: Tensor) -> None:
        self.network = state.search
        self.left, self.x, self.y = left, state.x[left], state.y[left]
        self.x_adv = start
        self.margin = margin_of(self.network(self.x_adv), self.y)
        self.fooled = self.margin <= 0

    @abstractmethod
    def try_changes(self, queries: range) -> Iterator[tuple[Tensor, Tensor]]:
        """Apply changes that lower the margin.

        Yields:
            After each query, which images are fooled, bool (N,), and the images, (N, C, H, W).
        """

    def run(self, state: AttackState, queries: int) -> None:
        """Search until all examples are broken or all queries are used."""
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
        """Keep only the given examples."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[kept])


class SearchInSquares(Search):
    """L-inf search that moves the channels of one square at a time to the ends of the allowed range.

    Args:
        eps: Radius of the ball, in pixel units.
        state: The examples under attack.
        left: Positions of the examples to work on.
        start: Their initial perturbed images.
    """

    def __init__(self, eps: float, state: AttackState, left: Tensor, start: Tensor) -> None:
        super().__init__(state, left, start)
        self.eps = eps
        self.at_a_time = state.patience
        self.low, self.high = (self.x - eps).clamp_(min=0), (self.x + eps).clamp_(max=1)

    @abstractmethod
    def draw(self, queries: range) -> tuple[Tensor, Tensor]:
        """Draw the square of each query, bool (N, Q, 1, H, W), and the change of its channels, (N, Q, C, 1, 1).

        The first dimension may be 1 if all examples share the draws. A change of ``2 * eps`` always reaches an end of
        the allowed range.
        """

    def try_changes(self, queries: range) -> Iterator[tuple[Tensor, Tensor]]:
        inside, change = (drawn.expand(len(self.x), *drawn.shape[1:]) for drawn in self.draw(queries))
        state = self.x_adv, self.margin, self.low, self.high, self.y, inside, change
        self.margin, fooled, images = replayed(self.network, _Changes(), *state)
        self.x_adv = images[:, -1]
        yield from zip(fooled.unbind(1), images.unbind(1), strict=True)


@dataclass(frozen=True)
class _Changes:
    """Applies the changes of several queries in turn to each image, and keeps those that lower its margin."""

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
    """Return masks of squares, given their top left corners and sides: (..., Q) each to bool (..., Q, 1, H, W)."""
    rows, columns = _between(top, side, height), _between(left, side, width)
    return (rows[..., :, None] & columns[..., None, :]).unsqueeze(-3)


def _between(first: Tensor, count: Tensor, extent: int) -> Tensor:
    """Return which of 0 to ``extent - 1`` are in [first, first + count): (..., Q) to bool (..., Q, extent)."""
    places = torch.arange(extent, device=first.device) - first[..., None]
    return (places >= 0) & (places < count[..., None])
