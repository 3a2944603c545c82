"""Looking at the directories of cells: broken records are said one by one, and nothing is written."""

import fcntl
import json

import pytest

from qra.study.directory import State, Task, state
from qra.study.grid import Cell
from qra.study.runner import states, times

DEFINITION = {"fit": {"lr": 0.1}}


def task(root, name="a", **record):
    """A task whose directory says of itself what is given."""
    cell = Cell(name=name, stage="s", coordinates={}, needs=(), commands=(("test",),), directory=f"cells/{name}")
    made = Task("study", cell, DEFINITION, 1, str(root))
    made.directory.mkdir(parents=True)
    usual = {
        "schema": 1,
        "hash": made.hash,
        "state": "running",
        "reason": None,
        "seconds": {},
        "definition": DEFINITION,
    }
    (made.directory / "cell.json").write_text(json.dumps({**usual, **record}))
    return made


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"seconds": {"fit": "x"}}, "its cell.json: seconds of fit are x, which is not a time"),
        ({"seconds": {"fit": float("nan")}}, "its cell.json: seconds of fit are nan, which is not a time"),
        ({"seconds": {"fit": [1]}}, "its cell.json: seconds of fit are [1], which is not a time"),
        ({"seconds": {"fit": -1}}, "its cell.json: seconds of fit are -1, which is not a time"),
        ({"state": "failed", "reason": ["a"]}, "its cell.json: reason is not text"),
    ],
)
def test_a_record_with_broken_parts_says_so_and_hides_no_other_cell(tmp_path, record, reason):
    work = {"a": task(tmp_path, "a", **record), "b": task(tmp_path, "b", state="failed", reason="out of memory")}
    found = states(work)
    assert found == {"a": State("changed", reason), "b": State("failed", "out of memory", {})}
    assert [times(each) for each in found.values()] == ["", ""]


def test_a_file_that_cannot_be_opened_hides_no_other_cell(tmp_path):
    work = {"a": task(tmp_path, "a"), "b": task(tmp_path, "b", state="failed", reason="out of memory")}
    (work["a"].directory / ".lock").mkdir()
    assert [each.reason for each in states(work).values()] == ["its .lock: Is a directory", "out of memory"]


def test_looking_at_a_cell_writes_nothing(tmp_path):
    found = task(tmp_path)
    assert state(found).reason == "it was interrupted"
    assert [path.name for path in found.directory.iterdir()] == ["cell.json"]


def test_a_cell_in_whose_directory_a_process_is_at_work_runs_though_its_lock_cannot_be_written(tmp_path):
    found = task(tmp_path)
    with open(found.directory / ".lock", "wb") as lock:
        (found.directory / ".lock").chmod(0o400)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert state(found).name == "running"
    assert state(found).name == "missing"
