"""What the cells of a study would run, and how long: each kind of command is counted and tried once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from qra.coordinates import Axis
from qra.durations import UntoldError
from qra.errors import is_expected, one_line
from qra.quant.scheme import OFF
from qra.study.check import Parsable, options_of, parsable
from qra.study.grid import Cell

_SAME = (Axis.SEED, "split_seed", "seed_everything", "run")
"""Last parts of options on which no time depends."""
_BITS = (Axis.WEIGHT_BITS, Axis.ACT_BITS)
"""Those of which only matters whether they are off."""


class Foreseen(Protocol):
    """What a command would do."""

    @property
    def seconds(self) -> float:
        """Its time on this machine."""

    @property
    def images(self) -> int:
        """Images that it goes through: one counts in each epoch of a training, and under each attack."""

    @property
    def passes(self) -> tuple[float, float]:
        """Forward and backward passes of one image."""


Foresee = Callable[[Sequence[str], int], Foreseen]
"""Says what a command would do on so many threads; raises ValueError where it refuses that, or it cannot be told."""


class Forecast(NamedTuple):
    """What some commands would do.

    Attributes:
        seconds: Their time on this machine, one after the other.
        images: Images that they go through: one counts in each epoch of a training, and under each attack.
        forward: Forward passes of one image.
        backward: Backward passes of one image.
        unknown: Why something cannot be told, a reason each.
    """

    seconds: float = 0.0
    images: int = 0
    forward: float = 0.0
    backward: float = 0.0
    unknown: tuple[str, ...] = ()

    def plus(self, other: Forecast) -> Forecast:
        """These commands and others."""
        reasons = tuple(dict.fromkeys((*self.unknown, *other.unknown)))
        seconds, images = self.seconds + other.seconds, self.images + other.images
        return Forecast(seconds, images, self.forward + other.forward, self.backward + other.backward, reasons)


class Forecaster:
    """Says what cells would do.

    Args:
        foresee: Counts and tries a command.
        threads: Threads of a cell.
    """

    def __init__(self, foresee: Foresee, threads: int) -> None:
        self._foresee, self._threads = foresee, threads
        self._known: dict[tuple[tuple[str, str], ...], Forecast] = {}

    def of(self, cell: Cell) -> Forecast:
        """What a cell would do.

        Raises:
            ValueError: If one of its commands would refuse to, with the cell and why.
        """
        found = Forecast()
        for command in parsable(cell):
            kind = tuple((name, _told_apart(name, value)) for name, value in options_of(command.words))
            if kind not in self._known:
                self._known[kind] = self._try(cell, command)
            found = found.plus(self._known[kind])
        return found

    def _try(self, cell: Cell, command: Parsable) -> Forecast:
        words = [*command.words, "--untrained", "true"] if command.words[0] == "test" else command.words
        try:
            found = self._foresee(words, self._threads)
        except Exception as reason:
            if not is_expected(reason):
                raise
            told = f"cell {cell.name}: {one_line(reason)}"
            if command.whole and not isinstance(reason, UntoldError):
                raise ValueError(told) from None
            return Forecast(unknown=(told,))
        return Forecast(found.seconds, found.images, *found.passes)


def _told_apart(name: str, value: str) -> str:
    """What of an option's value time can depend on."""
    last = name.rpartition(".")[2].lstrip("-")
    if last in _SAME:
        return ""
    return str(value == str(OFF)) if last in _BITS else value
