"""Forecast of the work and time of a study's cells; each kind of command is counted and timed only once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from qra.coordinates import Axis
from qra.durations import UntoldError
from qra.errors import is_expected, one_line
from qra.quant.scheme import OFF
from qra.study.check import Parsable, parsable
from qra.study.commands import options_of
from qra.study.grid import Cell

if TYPE_CHECKING:
    from qra.plan import Plan

_SAME = (Axis.SEED, "split_seed", "seed_everything", "run")
"""Options, by the last part of their names, that do not affect the time."""
_BITS = (Axis.WEIGHT_BITS, Axis.ACT_BITS)
"""Options that affect the time only by whether quantization is off."""


Foresee = Callable[[Sequence[str], int], "Plan"]
"""Plans a command on a number of threads; raises ValueError if the command would fail or cannot be predicted."""


class Forecast(NamedTuple):
    """Forecast of one or several commands.

    Attributes:
        seconds: Their total duration on this machine, one after the other.
        images: Number of images processed; an image counts once per epoch of a training and once per attack.
        forward: Number of forward passes of one image.
        backward: Number of backward passes of one image.
        unknown: Reasons why something cannot be predicted.
    """

    seconds: float = 0.0
    images: int = 0
    forward: float = 0.0
    backward: float = 0.0
    unknown: tuple[str, ...] = ()

    def plus(self, other: Forecast) -> Forecast:
        """Return the forecast of these commands and others together."""
        reasons = tuple(dict.fromkeys((*self.unknown, *other.unknown)))
        seconds, images = self.seconds + other.seconds, self.images + other.images
        return Forecast(seconds, images, self.forward + other.forward, self.backward + other.backward, reasons)


class Forecaster:
    """Forecasts cells.

    Args:
        foresee: Function that counts and times a command.
        threads: Number of threads of a cell.
    """

    def __init__(self, foresee: Foresee, threads: int) -> None:
        self._foresee, self._threads = foresee, threads
        self._known: dict[tuple[tuple[str, str], ...], Forecast] = {}

    def of(self, cell: Cell) -> Forecast:
        """Return the forecast of a cell.

        Raises:
            ValueError: If one of its commands would fail; the message names the cell and says why.
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
    """Return the part of an option's value that time can depend on."""
    last = name.rpartition(".")[2].lstrip("-")
    if last in _SAME:
        return ""
    return str(value == str(OFF)) if last in _BITS else value
