"""The command line: ``qra fit | validate | test | predict`` by LightningCLI, and small tools beside them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from qra import tools
from qra.cli.parser import ParsingError as ParsingError
from qra.cli.pipeline import QraCLI as QraCLI
from qra.cli.silence import quiet as quiet
from qra.cli.unrun import parse_command as parse_command
from qra.cli.unrun import plan_command as plan_command
from qra.errors import fail
from qra.front.answer import answer
from qra.front.arguments import prepared
from qra.front.usage import explained
from qra.runs.command import RunningCommand


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: Arguments that follow ``qra`` on the command line; by default those of this process.
    """
    arguments = list(sys.argv[1:] if args is None else args) or ["--help"]
    if answer(arguments) or tools.run(arguments, parse_command, plan_command):
        return
    quiet()
    words: list[str] = []
    try:
        words = prepared(arguments)
        with RunningCommand(words) as command:
            QraCLI(words, command)
    except ParsingError as reason:
        fail(explained(reason, words))
    except Exception as reason:
        fail(reason)
