"""How often an attack runs a network for one example."""

from __future__ import annotations

from typing import NamedTuple


class Passes(NamedTuple):
    """Passes of one example through a network."""

    forward: float
    backward: float = 0.0

    @property
    def work(self) -> float:
        """What they cost in forward passes, roughly."""
        return self.forward + 2 * self.backward

    def times(self, count: float) -> Passes:
        """As many passes, so many times."""
        return Passes(self.forward * count, self.backward * count)

    def plus(self, other: Passes) -> Passes:
        """These and others."""
        return Passes(self.forward + other.forward, self.backward + other.backward)


GRADIENT = Passes(1, 1)
"""What a gradient takes."""
