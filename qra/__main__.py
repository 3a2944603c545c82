import os
import signal
import sys

from qra import tools
from qra.memory import keep_memory
from qra.runs.signals import Stoppable, Stopped


def main() -> None:
    """Run one command; the console script."""
    keep_memory()
    try:
        with Stoppable(_again):
            if not tools.run(sys.argv[1:]):
                from qra.cli import main as run_lightning

                run_lightning()
    except Stopped as stopped:
        sys.stdout.flush()
        os._exit(stopped.exit_code)  # what libraries do at exit takes long, and may wait for ranks that are gone


def _again(number: signal.Signals) -> str:
    """What a user needs to know where a command does not tell more."""
    return f"stopped by {number.name}; the same command begins again"


if __name__ == "__main__":
    main()
