"""Inspection of a pickle without loading it, for what torch's safe loader would still allow."""

from __future__ import annotations

import mmap
import pickletools
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_GETS = ("GET", "BINGET", "LONG_BINGET")
_MARK, _SLICE = pickletools.markobject, pickletools.stackslice


def tuple_sizes(file: IO[bytes] | mmap.mmap) -> Iterator[int]:
    """Yield the size of each tuple in a pickle, counting nested tuples every time they are referenced.

    A few bytes can encode a tuple so large that hashing it, as a mapping's key, would never end.

    Args:
        file: File that is read to the end of the pickle, or to where it becomes invalid, which its reader will report.
    """
    with suppress(ValueError, IndexError, KeyError, UnicodeDecodeError):
        yield from _tuple_sizes(file)


def _tuple_sizes(file: IO[bytes] | mmap.mmap) -> Iterator[int]:
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[object, int] = {}
    for opcode, argument, _ in pickletools.genops(file):  # type: ignore[arg-type]
        if opcode.name in _PUTS:
            memo[argument] = stack[-1]
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif opcode.name in _GETS:
            stack.append(memo[argument])
        elif opcode.name == "DUP":
            stack.append(stack[-1])
        elif opcode.name == "MARK":
            marks.append(len(stack))
        else:
            below = sum(kind not in (_MARK, _SLICE) for kind in opcode.stack_before)
            start = (marks.pop() if _MARK in opcode.stack_before else len(stack)) - below
            size = 1 + sum(stack[start:]) if "TUPLE" in opcode.name else 1
            stack[start:] = [size] * len(opcode.stack_after)
            yield size
