"""The one line that a user needs of an error."""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import NoReturn

_KEY = re.compile(r'Parser key "([^"]+)"')
_REWORDED = (
    (re.compile(r"Unexpected import path format: (.*\.(?:ya?ml|json))$"), r"there is no config file \1"),
    (re.compile(r"Expected a <class '([^']+)'>\. Got value: (.*)$"), r"expected \1, got \2"),
    (re.compile(r"Expected a typing\.Literal\[(.*)\]\. Got value: (.*)$"), r"expected one of \1, got \2"),
    (
        re.compile(r"(?:Option|Key) '([^']+)' is not (?:accepted|expected)"),
        r"unknown key '\1': --print_config shows the keys there are",
    ),
    (re.compile(r"No supported gpu backend found!"), "there is no such GPU here: qra doctor shows the devices"),
)


def one_line(error: BaseException) -> str:
    """The reason at the bottom of a chain of exceptions, with the key of the config that it is about.

    Parsing nests the reason of a wrong value in the dumps of everything around it: the exception that was raised first
    tells it, and an outer one names the key.
    """
    messages = [str(error)]
    while (cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
        error = cause
        messages.append(str(error))
    reason = " ".join(messages[-1].split())
    for pattern, replacement in _REWORDED:
        reason = pattern.sub(replacement, reason)
    keys = [match[1] for message in messages if (match := _KEY.search(message))]
    if not keys or reason.startswith(("unknown key", f"{keys[-1]} ")) or _KEY.search(reason):
        return reason
    return f"{keys[-1]}: {reason}"


def fail(reason: BaseException) -> NoReturn:
    """End with one line and exit code 2; with a traceback first if QRA_DEBUG is set."""
    if os.environ.get("QRA_DEBUG"):
        logging.getLogger("qra").error("", exc_info=reason)
    print(f"qra: error: {one_line(reason)}", file=sys.stderr)
    raise SystemExit(2)
