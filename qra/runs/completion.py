"""How far a training is, as a fact on the disk that every later command looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qra.files import read_json
from qra.writing import write_json

FILE = "training.json"
"""Where a run directory says how far its training is."""


@dataclass(frozen=True)
class Training:
    """How far a training is.

    Args:
        finished: Whether it has come to its end, be it by its last epoch, its last step or a callback that ends it.
        epochs: Number of epochs done.
        epochs_asked: Number of epochs that it is to have; None where steps or time limit it.
        validated: Whether any epoch was validated, so that ``best.ckpt`` is the best one and not just the last.
        stopped: Whether a callback has ended it, such as one that stops early, and neither epochs, steps nor time.
    """

    finished: bool
    epochs: int
    epochs_asked: int | None = None
    validated: bool = True
    stopped: bool = False

    def __str__(self) -> str:
        asked = "" if self.epochs_asked is None else f" of {self.epochs_asked}"
        return f"{'finished' if self.finished else 'unfinished'}, {self.epochs}{asked} epochs done"

    def is_over(self, epochs: int | None) -> bool:
        """Whether nothing is left to do, for a command that asks for so many epochs."""
        all_done = self.epochs_asked is not None and self.epochs >= self.epochs_asked
        return self.finished and self.epochs_asked == epochs and (self.stopped or all_done)

    def summary(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def write(directory: Path, training: Training) -> None:
    """Say in a run directory how far its training is."""
    write_json(directory / FILE, {"schema": 1, **training.summary()})


def read(directory: Path) -> Training | None:
    """How far the training in a directory is; None if nothing says so. What cannot be read is not finished."""
    path = directory / FILE
    if not path.exists():
        return None
    try:
        return parse(read_json(path))
    except (OSError, ValueError):
        return parse(None)


def parse(content: object) -> Training:
    """What a JSON file says of a training; anything but a whole record is not finished."""
    found: Mapping[str, Any] = content if isinstance(content, dict) else {}
    finished, epochs, asked = (found.get(key) for key in ("finished", "epochs", "epochs_asked"))
    if type(finished) is not bool or type(epochs) is not int or not isinstance(asked, int | None):
        return Training(False, 0)
    stopped = found.get("stopped", finished and asked is not None and epochs < asked)  # earlier versions do not say
    return Training(finished, epochs, asked, found.get("validated") is not False, stopped is True)
