"""The number of network passes that an attack takes per example."""

from __future__ import annotations

from typing import NamedTuple


class PassCount(NamedTuple):
    """Number of forward and backward passes of one example through a network."""

    forward: float
    backward: float = 0.0

    @property
    def work(self) -> float:
        """Approximate cost in forward passes; a backward pass counts as two."""
        return self.forward + 2 * self.backward

    def times(self, count: float) -> PassCount:
        """Return these passes multiplied by ``count``."""
        return PassCount(self.forward * count, self.backward * count)

    def plus(self, other: PassCount) -> PassCount:
        """Return the sum of these passes and others."""
        return PassCount(self.forward + other.forward, self.backward + other.backward)


GRADIENT = PassCount(1, 1)
"""Passes that one gradient takes."""
