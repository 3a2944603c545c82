"""Reduction of an error to the one line that a user needs."""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import NoReturn

_EXPECTED = ("TypeError", "NSKeyError", "MisconfigurationException", "ArgumentError")
"""Exception classes by which parsers and Lightning reject a user's input."""
_KEY = re.compile(r'Parser key "([^"]+)"')
_REWORDED = (
    (re.compile(r"Unexpected import path format: (.*\.(?:ya?ml|json))$"), r"there is no config file \1"),
    (re.compile(r"Expected a <class '([^']+)'>\. Got value: (.*)$"), r"expected \1, got \2"),
    (re.compile(r"Expected a typing\.Literal\[(.*)\]\. Got value: (.*)$"), r"expected one of \1, got \2"),
    (re.compile(r"expected collections\.abc\.Sequence, got (.*)$"), r"expected a list, such as '[\1]', got \1"),
    (
        re.compile(r"Expected a dot import path string: (.*)$"),
        r"expected a config (qra configs) or the path of a class, got \1",
    ),
    (
        re.compile(r"Import path (\S+) does not correspond to a subclass of (\S+)$"),
        r"\1 is no \2 (a function must be annotated to return one)",
    ),
    (re.compile(r"Expected '(\S+)' to be a subclass of <class '(\S+)'>\.$"), r"\1 is no \2"),
    (
        re.compile(r"No module named '([^']+)'$"),
        r"no module \1 is installed or on PYTHONPATH (export PYTHONPATH=. for the working directory)",
    ),
    (
        re.compile(r"Subcommand '[^']*' does not accept option '([^']+)'"),
        r"unknown key '\1': --print_config shows them",
    ),
    (re.compile(r"^\[Errno \d+\] (.*)$"), r"\1"),
    (re.compile(r"No space left on device.*"), "no space left on the disk: make room and run again"),
    (
        re.compile(r"(?:Option|Key) '([^']+)' is not (?:accepted|expected)"),
        r"unknown key '\1': --print_config shows the keys there are",
    ),
    (
        re.compile(r"Found more than one stateful callback of type `(\w+)`.*"),
        r"there are two callbacks \1 that a checkpoint cannot distinguish: leave one out",
    ),
    (
        re.compile(r"(view size is not compatible with input tensor's size and stride) .*"),
        r"\1: something here needs weights in the usual memory format: set --model.channels_last false",
    ),
    (re.compile(r"No supported gpu backend found!"), "there is no such GPU here: qra doctor shows the devices"),
)


def plain(text: object) -> str:
    """Return text as one line without control characters, so that file contents cannot control the terminal."""
    line = str(text)
    if not line.isprintable():
        line = "".join(sign if sign.isprintable() else " " for sign in line)
    return " ".join(line.split())


def reason_of(error: BaseException) -> str:
    """Return the message of an error in one line, or its class if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def one_line(error: BaseException) -> str:
    """Return the root cause of a chain of exceptions in one line, with the config key that it is about.

    Parsing nests the reason for a wrong value in dumps of everything around it: the exception raised first has the
    reason, and an outer one names the key.
    """
    told = [message for message in _messages(error) if message.strip()]
    reason = plain(told[-1]) if told else ""
    for pattern, replacement in _REWORDED:
        reason = pattern.sub(replacement, reason)
    key = key_of(error)
    if not key or reason.startswith(("unknown key", f"{key} ")) or _KEY.search(reason):
        return reason
    return f"{key}: {reason}"


def _messages(error: BaseException) -> list[str]:
    """Return the messages of a chain of exceptions, with that of the first one raised last; an OSError tells all."""
    messages = [str(error)]
    while not isinstance(error, OSError) and (cause := _cause(error)) is not None:
        error = cause
        messages.append(str(error))
    return messages


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def key_of(error: BaseException) -> str:
    """Return the config key that a chain of exceptions is about, or an empty string."""
    found: list[str] = []
    for message in map(plain, _messages(error)):
        if (match := _KEY.search(message)) and match[1] not in found:
            found.append(match[1])
    return ".".join(found)


def is_expected(error: BaseException) -> bool:
    """Return whether an error is due to the user's input and not a fault of the program."""
    return isinstance(error, ValueError | OSError) or type(error).__name__ in _EXPECTED


def fail(reason: BaseException) -> NoReturn:
    """Exit with one line and code 2; with ``QRA_DEBUG`` set, print a traceback first.

    For an unexpected error the line also has its class and where to find its traceback.
    """
    if os.environ.get("QRA_DEBUG"):
        logging.getLogger("qra").error("", exc_info=reason)
    line = one_line(reason)
    if not is_expected(reason):
        place = "; ".join(getattr(reason, "__notes__", [])) or "QRA_DEBUG=1 shows the traceback"
        line = f"{': '.join(filter(None, (type(reason).__name__, line)))} ({place})"
    print(f"qra: error: {line}", file=sys.stderr)
    raise SystemExit(2)
