"""Requests that ``qra`` answers at once, before anything heavy is imported."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence

from qra.errors import fail
from qra.front import help
from qra.front.completion import SCRIPTS
from qra.front.tool_arguments import PARSERS
from qra.front.usage import explained_option
from qra.version import version_line

TAKE_DATA = ("compare", "deploy")
"""Tools that parse the options of their data with parsers of their own."""


def answer(arguments: Sequence[str]) -> bool:
    """Answer a request for help, the version, the configs or shell completion, and reject an unknown command.

    Args:
        arguments: Arguments that follow ``qra``.

    Returns:
        Whether the request was answered completely.
    """
    try:
        answered = _answer(arguments[0] if arguments else "--help", arguments[1:])
        sys.stdout.flush()
    except ValueError as reason:
        fail(explained_option(reason, arguments))
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    except OSError as reason:
        fail(reason)
    return answered


def _answer(command: str, words: Sequence[str]) -> bool:
    if command == "help" and words:
        return _answer(words[0], ["--help"])
    if command in ("--help", "-h", "help"):
        print(help.screen())
    elif command in ("--version", "version"):
        print(version_line())
    elif command == "configs":
        print(help.configs(PARSERS[command]().parse_args(list(words)).folder))
    elif command == "completion":
        print(SCRIPTS[PARSERS[command]().parse_args(list(words)).shell]())
    elif command not in help.COMMANDS:
        close = difflib.get_close_matches(command, [*help.COMMANDS, "--help", "--version"], 1)
        meant = f": did you mean {close[0]}?" if close else ";"
        raise ValueError(f"there is no command {command!r}{meant} qra --help lists them")
    else:
        return _asked_for_help(command, words)
    return True


def _asked_for_help(command: str, words: Sequence[str]) -> bool:
    if command in PARSERS:
        wants_help = "-h" in words or "--help" in words
        if wants_help or command not in TAKE_DATA:
            PARSERS[command]().parse_args(list(words))  # exits if help is requested
        return False
    for place, word in enumerate(words):
        name, _, value = word.partition("=")
        if name in ("-h", "--help"):
            print(help.command(command))
            return True
        if name.startswith("--") and name.endswith(".help"):
            following = value or next(iter(words[place + 1 : place + 2]), None)
            asked = help.of_class(name.removeprefix("--").removesuffix(".help"), following)
            if asked is not None:
                print(asked)
                return True
    return False
