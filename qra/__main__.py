from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qra.front.answer import answer
from qra.runs.signals import Stoppable, Stopped

if TYPE_CHECKING:
    from qra.plan import Plan

PLATFORMS = ("linux", "darwin")
"""Platforms that have the file locks and signals on which commands rely."""


def main() -> None:
    """Run one command; the entry point of the console script."""
    if sys.platform not in PLATFORMS:
        print(f"qra: error: qra runs on Linux and macOS, not on {sys.platform}", file=sys.stderr)
        raise SystemExit(2)
    _open_streams()
    if answer(sys.argv[1:]):
        return
    if not _is_somewhere():
        print("qra: error: the working directory no longer exists: change to one that does", file=sys.stderr)
        raise SystemExit(2)
    try:
        with Stoppable(_again):
            from qra import tools
            from qra.memory import keep_memory

            keep_memory()
            if not tools.run(sys.argv[1:], _parse, _plan):
                from qra.cli import main as run_lightning

                run_lightning()
    except Stopped as stopped:
        sys.stdout.flush()
        os._exit(stopped.exit_code)  # libraries' exit handlers are slow and may wait for ranks that no longer exist


def _open_streams() -> None:
    """Give the process those of its streams that it was started without, as services do."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - as long as the process


def _is_somewhere() -> bool:
    try:
        return bool(os.getcwd())
    except FileNotFoundError:
        return False


def _parse(words: Sequence[str], whole: bool) -> None:
    """Parse a command of a study; this imports Lightning."""
    from qra.cli import parse_command

    parse_command(words, whole)


def _plan(words: Sequence[str], threads: int) -> Plan:
    """Return the plan of a command of a study; this imports Lightning."""
    from qra.cli import plan_command

    return plan_command(words, threads)


def _again(number: signal.Signals) -> str:
    """Return the message for a stopped command that does not report more itself."""
    return f"stopped by {number.name}; the same command begins again"


if __name__ == "__main__":
    main()
