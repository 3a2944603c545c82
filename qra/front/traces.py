"""Tracebacks of unexpected errors."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qra.errors import is_expected
from qra.writing import write_bytes

ERROR_FILE = "error.txt"


@contextmanager
def traceback_kept(directory: Path, worth: Callable[[], bool]) -> Iterator[None]:
    """Write the traceback of an unexpected error into the directory of the command that it ends.

    Args:
        directory: Directory that the command writes to.
        worth: Function that returns whether this process has done work there that is kept.
    """
    try:
        yield
    except Exception as reason:
        if worth() and not is_expected(reason):
            file = directory / ERROR_FILE
            write_bytes(file, "".join(traceback.format_exception(reason)).encode())
            reason.add_note(f"the traceback is in {file}")
        raise
