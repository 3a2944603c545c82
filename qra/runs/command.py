"""One command in a run directory, from locking the directory to its end."""

from __future__ import annotations

import errno
import shlex
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from qra.runs.directory import Claim
from qra.runs.ranks import Forwarding, Watch, first_rank, lost_rank
from qra.runs.signals import Stoppable


class RunningCommand:
    """Context of a command that writes to a run directory.

    Within it, a signal ends the command with a line that says how to resume, and the death of one process ends those of
    all ranks. If the command ends before its first step, it leaves nothing in the directory.

    Args:
        arguments: Arguments that follow ``qra`` on the command line.

    Attributes:
        begun: Whether the first step is done.
        finished: Whether training is done, though not necessarily what follows it.
        trainer: Lightning's trainer, once there is one.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.begun = False
        self.finished = False
        self.trainer: Any = None
        self._arguments = list(arguments)
        self._claim: Claim | None = None
        self._directory: Path | None = None
        first = first_rank()
        self._signals = Stoppable(self._stopped, self._end_others) if first is None else Forwarding(first)

    def work_in(self, directory: Path, first: bool) -> None:
        """Claim a directory for this command, which writes to it from now on.

        Args:
            directory: The directory; created if necessary.
            first: Whether this process holds the claim on behalf of all ranks.

        Raises:
            ValueError: If another command writes to it.
        """
        self._directory = directory
        if first:
            self._claim = Claim(directory, f"qra {self._arguments[0]}")

    def __enter__(self) -> RunningCommand:
        self._watch = Watch(self._others, self.how_to_go_on)
        self._signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if value is None:
            self._watch.wait_for_others()
        elif isinstance(value, RuntimeError):
            self._watch.wait_for_verdict()
        self._signals.__exit__(kind, value, trace)
        if self._claim is not None:
            self._claim.release(keep=value is None or self.begun)
        self._end_others()
        self._watch.stop()
        if value is not None and lost_rank(value):
            gone = "another rank has ended or cannot be reached, so this one ends too"
            raise ConnectionError(f"{gone}; {self.how_to_go_on()}") from None
        if isinstance(value, OSError) and value.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f"{value.filename or self._directory}: no space left on the disk"
            raise OSError(f"{where}; what is done stays: make room and {self.how_to_go_on()}") from None

    def how_to_go_on(self) -> str:
        """Return the command that resumes from here, in words."""
        return f"go on by: {shlex.join(['qra', *self._continuation()])}"

    def _continuation(self) -> list[str]:
        command, *options = self._arguments
        if command != "fit" or self._directory is None or not (self._directory / "last.ckpt").exists():
            return self._arguments
        options, resumed = _without(options, "--ckpt_path")
        if resumed and not any(option.split("=")[0] == "--run" for option in options):
            options += ["--run", str(self._directory)]
        return [command, *options, "--ckpt_path", "last"]

    def _stopped(self, number: signal.Signals) -> str:
        return f"stopped by {number.name} {self._place()}; {self.how_to_go_on()}"

    def _place(self) -> str:
        """Return how far the command has come, in words."""
        if self.trainer is None or self.trainer.state.fn is None:
            return "before it began"
        if not self.begun:
            return f"at the start of {self.trainer.state.fn.value}"
        if self.trainer.state.fn != "fit":
            return f"during {self.trainer.state.fn.value}"
        if self.finished:
            return "after training, while it was evaluated"
        asked = self.trainer.max_epochs
        epoch = f"epoch {self.trainer.current_epoch + 1}" + (f" of {asked}" if asked and asked > 0 else "")
        return f"during validation in {epoch}" if self.trainer.validating else f"in {epoch}"

    def _others(self) -> Sequence[subprocess.Popen[bytes]]:
        """Return the processes that Lightning has started as further ranks."""
        launcher = None if self.trainer is None else self.trainer.strategy.launcher
        return getattr(launcher, "procs", None) or ()

    def _end_others(self) -> None:
        self._watch.end_others()


def _without(options: Sequence[str], name: str) -> tuple[list[str], bool]:
    """Return options without one of them, and whether it was present."""
    kept: list[str] = []
    skip = found = False
    for option in options:
        if skip:
            skip = False
        elif option == name or option.startswith(f"{name}="):
            skip, found = option == name, True
        else:
            kept.append(option)
    return kept, found
