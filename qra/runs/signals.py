"""Ending the process on SIGTERM and SIGINT within seconds, wherever the program is."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_CODE = 128
"""Offset that shells add to a signal's number to form the exit code."""

GRACE = 3.0
"""Seconds that a process has to end in an orderly way before it is forced to."""

_active: list[Stoppable] = []


class Stopped(SystemExit):
    """A signal asks this process to end; the exit code is 128 plus the signal's number, as in shells."""

    def __init__(self, number: int) -> None:
        self.exit_code = EXIT_CODE + number
        super().__init__(self.exit_code)


class Stoppable:
    """Context in which SIGTERM and SIGINT end the process, with a line that says where it was and how to resume.

    The main thread is interrupted by :class:`Stopped`, so that open resources are closed. If it does not get that far,
    because it waits inside a library that does not return to Python, a second thread ends the process. Files on disk
    are complete at any moment, so nothing has to be saved first.

    Args:
        tell: Function that returns the line for a signal; called when the signal arrives.
        end: Function to call when the process is about to end, for example to end others.
        grace: Seconds until the second thread ends the process.
    """

    def __init__(
        self, tell: Callable[[signal.Signals], str], end: Callable[[], None] = lambda: None, grace: float = GRACE
    ) -> None:
        self._tell = tell
        self._end = end
        self._grace = grace
        self._line: str | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stoppable:
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread can set handlers
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # ignored under nohup and in background jobs of shells
                self._before[number] = signal.signal(number, self._interrupt)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()
        _active.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self not in _active:
            return
        _active.remove(self)
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if isinstance(value, Stopped):
            self._print()
            self._end()
        self._over.set()
        os.close(self._write)

    def rearm(self) -> None:
        """Install the handlers again, after a library has replaced them with its own."""
        for number in self._before:
            signal.signal(number, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._line is None:
            self._prepare(number)
            raise Stopped(number)

    def _watch(self) -> None:
        while byte := os.read(self._read, 1):
            if byte[0] in self._before:
                break
        else:
            os.close(self._read)
            return
        self._end_process(byte[0])

    def _end_process(self, number: int) -> None:
        """End the process if the main thread does not; runs in the second thread."""
        if not self._over.wait(self._grace):
            self._prepare(number)
            self._print()
            self._end()
            os._exit(EXIT_CODE + number)

    def _prepare(self, number: int) -> None:
        if self._line is None:
            self._line = f"stopped by {signal.Signals(number).name}"
            with suppress(Exception):  # the process must end, whatever state the program is in
                self._line = self._tell(signal.Signals(number))

    def _print(self) -> None:
        with self._lock:
            if self._line:
                sys.stdout.flush()
                print(f"qra: {self._line}", file=sys.stderr, flush=True)
            self._line = ""


def rearm() -> None:
    """Call :meth:`Stoppable.rearm` of the innermost active context, if there is one and this is the main thread."""
    if _active and threading.current_thread() is threading.main_thread():
        _active[-1].rearm()
