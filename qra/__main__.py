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
"""Where locks of files and signals are what commands rely on."""


def main() -> None:
    """Run one command; the console script."""
    if sys.platform not in PLATFORMS:
        print(f"qra: error: qra runs on Linux and macOS, not on {sys.platform}", file=sys.stderr)
        raise SystemExit(2)
    if answer(sys.argv[1:]):
        return
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
        os._exit(stopped.exit_code)  # what libraries do at exit takes long, and may wait for ranks that are gone


def _parse(words: Sequence[str], whole: bool) -> None:
    """Parse a command of a study, which takes Lightning."""
    from qra.cli import parse_command

    parse_command(words, whole)


def _plan(words: Sequence[str], threads: int) -> Plan:
    """Say what a command of a study would do, which takes Lightning."""
    from qra.cli import plan_command

    return plan_command(words, threads)


def _again(number: signal.Signals) -> str:
    """What a user needs to know where a command does not tell more."""
    return f"stopped by {number.name}; the same command begins again"


if __name__ == "__main__":
    main()
