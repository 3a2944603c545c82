"""How often an attack runs a network for one example."""

from __future__ import annotations

from typing import NamedTuple


class PassCount(NamedTuple):
    """PassCount of one example through a network."""

    forward: float
    backward: float = 0.0

    @property
    def work(self) -> float:
        """What they cost in forward passes, roughly."""
        return self.forward + 2 * self.backward

    def times(self, count: float) -> PassCount:
        """As many passes, so many times."""
        return PassCount(self.forward * count, self.backward * count)

    def plus(self, other: PassCount) -> PassCount:
        """These and others."""
        return PassCount(self.forward + other.forward, self.backward + other.backward)


GRADIENT = PassCount(1, 1)
"""What a gradient takes."""
