"""Explanations of errors in a command line, beyond the parser's own."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qra.errors import key_of, one_line
from qra.front.arguments import config_files
from qra.front.options import RUNS, advice
from qra.front.shipped import FOLDERS
from qra.front.yaml_files import where

_UNKNOWN = re.compile(r"unrecognized arguments: (-[^\s;]+)")
_REQUIRED = re.compile(r"the following arguments are required: (.*)")
_KEY = re.compile(r"unknown key '([^']+)'")
MISSING = {
    "model": "--config pipeline/NAME (qra configs lists them)",
    "data": "--data data/cifar10, data/image_folder or data/synthetic",
}

HINTS = {
    "overrides": "give layer names with their bits, such as '{fc: W2A2, \"stages.0.*\": W8}'",
    "seed_everything": "give a whole number from 0 to 2**32 - 1",
    "schedule": "give qra.schedules.OneCycle, MultiStep or Cosine, or a model of your own with configure_optimizers",
    "precision": "give 32-true, 16-mixed, bf16-mixed or 64-true",
    "scheme": "give bits by --model.scheme.weight_bit_width and act_bit_width",
}
"""What a value of the wrong type should have been, by the last part of its key."""


class UsageError(ValueError):
    """A command line cannot be executed; the message explains it to the user."""


def explained(error: BaseException, words: Sequence[str]) -> UsageError:
    """Return an error that explains what is wrong with a command line, and where."""
    command, reason = words[0], one_line(error)
    if unknown := _UNKNOWN.search(reason):
        return UsageError(f"{command} has no option {unknown[1].partition('=')[0]}: {advice(unknown[1], command)}")
    if required := _REQUIRED.search(reason):
        absent = [name.strip().partition(".")[2] or name.strip() for name in required[1].split(",")]
        missing = " and ".join(f"no {name}" for name in absent)
        key = ".".join(filter(None, (key_of(error), absent[0])))
        option = f"--{key}" if command in RUNS else f"it after qra {command}"
        first = next((MISSING[name] for name in ("model", "data") if name in absent), option)
        return UsageError(f"{command} has {missing}: give {first}")
    if unknown := _KEY.search(reason):
        key = ".".join(filter(None, (key_of(error), unknown[1])))
        return UsageError(f"{_place(key, words)}unknown key {key!r}: {advice(f'--{key}', command)}{_age(key, words)}")
    last = key_of(error).rpartition(".")[2]
    hint = HINTS.get(last)
    reason = reason.replace("(qra configs)", f"(qra configs {' or '.join(FOLDERS.get(last, ()))})".replace(" )", ")"))
    return UsageError(f"{_place(key_of(error), words)}{reason}{f': {hint}' if hint else ''}")


def explained_option(error: Exception, words: Sequence[str]) -> Exception:
    """Return an error of a command that does not use Lightning's, explained if it is about an unknown option."""
    return explained(error, words) if _UNKNOWN.search(str(error)) else error


def _place(key: str, words: Sequence[str]) -> str:
    """Return the file that sets a key, for the beginning of a message; empty if an option sets it."""
    file = None if not key or _is_option(key, words) else where(key, config_files(words))
    return f"{file}: " if file else ""


def _age(key: str, words: Sequence[str]) -> str:
    return "" if _is_option(key, words) else "; a config of another version of qra may have removed keys"


def _is_option(key: str, words: Sequence[str]) -> bool:
    plain = [word.replace(".init_args", "").lstrip("-").partition("=")[0] for word in words if word.startswith("--")]
    return any(key.replace(".init_args", "") == word for word in plain)
