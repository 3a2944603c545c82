"""Progress of a training, recorded on disk for later commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qra.files import read_json
from qra.writing import write_json

FILE = "training.json"
"""File in a run directory that records the progress of its training."""


@dataclass(frozen=True)
class Training:
    """Progress of a training.

    Args:
        finished: Whether it has ended, by its last epoch, its last step, its time limit or a callback.
        epochs: Number of epochs done.
        epochs_asked: Number of epochs requested; None if only steps or time limit it.
        validated: Whether any epoch was validated, so that ``best.ckpt`` is the best one and not just the last.
        stopped: Whether a callback ended it, such as early stopping, rather than a limit on epochs, steps or time.
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
        """Return whether nothing is left to do for a command that requests so many epochs."""
        all_done = self.epochs_asked is not None and self.epochs >= self.epochs_asked
        return self.finished and self.epochs_asked == epochs and (self.stopped or all_done)

    def summary(self) -> dict[str, Any]:
        """Return the progress, ready for JSON."""
        return asdict(self)


def write(directory: Path, training: Training) -> None:
    """Write the progress of a training to its run directory."""
    write_json(directory / FILE, {"schema": 1, **training.summary()})


def read(directory: Path) -> Training | None:
    """Return the progress recorded in a directory; None if there is no record, and unfinished if it is unreadable."""
    path = directory / FILE
    if not path.exists():
        return None
    try:
        return parse(read_json(path))
    except (OSError, ValueError):
        return parse(None)


def parse(content: object) -> Training:
    """Return the progress in the content of a JSON file; anything but a complete record counts as unfinished."""
    found: Mapping[str, Any] = content if isinstance(content, dict) else {}
    finished, epochs, asked = (found.get(key) for key in ("finished", "epochs", "epochs_asked"))
    if type(finished) is not bool or type(epochs) is not int or not isinstance(asked, int | None):
        return Training(False, 0)
    stopped = found.get("stopped", finished and asked is not None and epochs < asked)  # missing in earlier versions
    return Training(finished, epochs, asked, found.get("validated") is not False, stopped is True)
