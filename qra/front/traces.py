"""What a command leaves behind when it fails."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qra.errors import is_expected

FIRST = {"config.yaml", "run.json", "tensorboard", "validate", "test", "predict"}
"""What a command writes before it has made anything."""
ERROR_FILE = "error.txt"


@contextmanager
def nothing_left_of_a_refusal(directory: Path, is_first_process: bool, worked: Callable[[], bool]) -> Iterator[None]:
    """Take back what a command wrote if it fails before it has made anything; else keep the traceback beside it.

    Args:
        directory: Where the command writes.
        is_first_process: Whether this process is the one that tidies.
        worked: Says whether it got anywhere, such as to a step of training.
    """
    before = _names(directory)
    missing = [place for place in (directory, *directory.parents) if not place.exists()]
    try:
        yield
    except Exception as reason:
        if is_first_process:
            new = _names(directory) - before
            if new <= FIRST and not worked():
                _remove([directory / name for name in new], missing)
            elif not is_expected(reason):
                file = directory / ERROR_FILE
                file.write_text("".join(traceback.format_exception(reason)))
                reason.add_note(f"the traceback is in {file}")
        raise


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} if directory.is_dir() else set()


def _remove(files: list[Path], directories: list[Path]) -> None:
    """Remove files and trees, and then the directories that were made for them, if they are empty."""
    for file in files:
        shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink(missing_ok=True)
    for place in directories:
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()
