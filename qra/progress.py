"""Progress of evaluations: bars on a terminal, lines in a log."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from qra.durations import duration

__all__ = ["EvaluationProgress"]

EARLY = 0.05
"""Share of the work before which no time is estimated, as start-up costs and images that break at once mislead."""


def time_left(spent: float, done: float, left: float) -> str:
    """Return the time left of work in chunks, in words; empty while too little is done for an estimate.

    Within the first chunk it is an upper bound, because an attack that breaks its images early ends early.

    Args:
        spent: Seconds so far.
        done: Chunks done so far, including the fraction of the current one.
        left: Chunks left.
    """
    if done < EARLY * min(1.0, done + left):
        return ""
    return f"{'about' if done >= 1 else 'at most'} {duration(spent * left / done)} left"


class EvaluationProgress:
    """Progress bar over attacked batches with the accuracy so far; silent unless ``shown``."""

    def __init__(self, shown: bool) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._bar = Progress(*columns, TextColumn("{task.fields[accuracy]}"), disable=not shown)
        self._correct = 0
        self._seen = 0

    def __enter__(self) -> EvaluationProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def start(self, attack: str, batches: int) -> None:
        """Start a bar for ``attack`` over a number of batches."""
        self._task = self._bar.add_task(attack, total=batches, accuracy="")
        self._correct = self._seen = 0

    def advance(self, correct: Tensor) -> None:
        """Advance by one batch, given which of its examples are correct, (N,)."""
        self._correct += int(correct.sum())
        self._seen += len(correct)
        accuracy = f"{self._correct / self._seen:.1%} correct" if self._seen else ""  # a rank may have no examples
        self._bar.update(self._task, advance=1, accuracy=accuracy)


class ChunkProgress:
    """Progress of long attacks on chunks of examples: the accuracy so far, the current attack and the time left.

    It is a bar on a terminal; elsewhere a line is printed when an attack starts and every minute.

    Args:
        title: Title of the evaluation.
        chunks: Number of chunks of this process, including those done before.
        shown: Whether to show anything.
        lines: Whether to print a line when an attack starts.
    """

    def __init__(self, title: str, chunks: int, shown: bool, lines: bool = True) -> None:
        self._title, self._chunks, self._each = title, chunks, lines
        self._lines = shown and not Console().is_terminal
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[news]}")
        self._bar = Progress(*columns, disable=not shown or self._lines)
        self._begun = time.monotonic()
        self._resumed = self._done = self._correct = self._seen = 0
        self._size = self._chunk_correct = 0
        self._attack, self._said = "", self._begun

    def __enter__(self) -> ChunkProgress:
        self._bar.start()
        self._task = self._bar.add_task(self._title, total=self._chunks, news="")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def resumed(self, correct: int, size: int) -> None:
        """Count a chunk that was done in an earlier run."""
        self._resumed += 1
        self._done += 1
        self._correct += correct
        self._seen += size

    def start(self, size: int) -> None:
        """Start a chunk of ``size`` examples."""
        self._size, self._attack = size, ""

    def watch(self, attack: str, share: float, correct: int) -> None:
        """Report that ``attack`` has done a share of the chunk's work, with ``correct`` examples still correct."""
        self._chunk_correct = correct
        accuracy = (self._correct + correct) / (self._seen + self._size)
        done = self._done + share
        left = time_left(time.monotonic() - self._begun, done - self._resumed, self._chunks - done)
        said = f", {left}" if left else ""
        news = f"chunk {self._done + 1}/{self._chunks}, {attack}: {accuracy:.1%} correct{said}"
        self._bar.update(self._task, completed=done, news=news)
        begins = self._each and attack != self._attack
        if self._lines and (begins or time.monotonic() - self._said > 60):
            print(f"{self._title}  {news}", flush=True)
            self._said = time.monotonic()
        self._attack = attack

    def finish(self) -> None:
        """Count the chunk as done."""
        self._done += 1
        self._correct += self._chunk_correct
        self._seen += self._size
