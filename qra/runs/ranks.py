"""The processes of one command: if one of them dies, all end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType

from qra.runs.signals import EXIT_CODE, Stoppable

_FIRST = "QRA_FIRST_RANK"
"""Environment variable by which rank 0 gives its process ID to the ranks that it starts."""

_LOST = re.compile(
    r"Connection (closed|reset) by peer|[Rr]emote process exited|Socket closed|Broken pipe|Software caused connection"
    r"|NCCL (communicator|error).*(abort|remote)|failed to connect|store->get"
)
"""Messages of gloo, NCCL and their stores when a rank is lost."""
_POLL = 0.2
"""Seconds between checks of the other processes."""
_PATIENCE = 5.0
"""Seconds that rank 0 waits for the others at the end."""
_VERDICT = 3.0
"""Seconds within which a rank's death is noticed, after an exception that it may have caused."""


def first_rank() -> int | None:
    """Return the process ID of rank 0 if it has started this process as another rank; else None."""
    parent = os.environ.get(_FIRST)
    return int(parent) if parent is not None and parent == str(os.getppid()) else None


def is_first_node() -> bool:
    """Return whether this machine is the first of those that work on one command, as far as its environment tells."""
    return int(os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or 0) == 0


def lost_rank(error: BaseException) -> bool:
    """Return whether an error means that a process on another machine is gone or cannot be reached."""
    return isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None


class Forwarding(Stoppable):
    """Signal handling of a further rank: it passes signals on to rank 0, which ends all ranks."""

    def __init__(self, first: int) -> None:
        super().__init__(lambda number: "")
        self._first = first

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """Do nothing; the second thread acts, as it runs even while this one waits for other ranks."""

    def _end_process(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._first, number)
        if not self._over.wait(3 * self._grace):
            os._exit(EXIT_CODE + number)


class Watch:
    """Ends this process, with a message, when another rank has died.

    Rank 0 watches the processes that it has started, and each of them watches rank 0, so that none is left running
    alone. This is done in a thread, because the main thread may wait for the dead rank inside a library.

    Args:
        others: Function that returns the processes that this one has started as further ranks, in order from rank 1.
        go_on: Function that returns the words that say how to resume.
    """

    def __init__(self, others: Callable[[], Sequence[subprocess.Popen[bytes]]], go_on: Callable[[], str]) -> None:
        self._others = others
        self._go_on = go_on
        self._first = first_rank()
        self._over = threading.Event()
        if self._first is None:
            os.environ[_FIRST] = str(os.getpid())
        threading.Thread(target=self._run, name="ranks", daemon=True).start()

    @property
    def several(self) -> bool:
        """Whether there is more than one rank on this machine."""
        return self._first is not None or bool(self._others())

    def wait_for_verdict(self) -> None:
        """Wait long enough for the watch to end this process, in case another rank's death caused the error."""
        if self.several:
            time.sleep(_VERDICT)

    def wait_for_others(self) -> None:
        """Wait for the other ranks to end, so that they do not find this one gone."""
        end = time.monotonic() + _PATIENCE  # limited, as what they do at exit may wait for this process
        while time.monotonic() < end and any(process.poll() is None for process in self._others()):
            time.sleep(_POLL)
        time.sleep(2 * _POLL if self._others() else 0)

    def end_others(self) -> None:
        """Kill the processes that this one has started."""
        self._over.set()
        for process in self._others():
            process.kill()

    def stop(self) -> None:
        """Stop watching."""
        self._over.set()
        if self._first is None:
            os.environ.pop(_FIRST, None)

    def _run(self) -> None:
        while not self._over.wait(_POLL):
            if self._first is not None and os.getppid() != self._first:
                if os.environ.get("LOCAL_RANK", "1") == "1":
                    _print(f"rank 0 (process {self._first}) has ended, so the other ranks end too", self._go_on())
                os._exit(1)
            for rank, process in enumerate(self._others(), 1):
                if process.poll():
                    how = _how_it_ended(process.returncode)
                    self.end_others()
                    _print(f"rank {rank} (process {process.pid}) {how}, so the other ranks end too", self._go_on())
                    os._exit(max(1, process.returncode))


def _how_it_ended(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _print(what: str, go_on: str) -> None:
    sys.stdout.flush()
    print(f"qra: error: {what}; {go_on}", file=sys.stderr, flush=True)
