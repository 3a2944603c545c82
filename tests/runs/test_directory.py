"""One writer a run directory."""

import errno
import fcntl
import json
import os

import light
import pytest

from qra.runs.directory import LOCK, Claim

HOLD = """
import sys, time
from pathlib import Path
from qra.runs.directory import Claim
claim = Claim(Path(sys.argv[1]), "qra fit")
print("claimed", flush=True)
time.sleep(60)
"""


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path):
    claim = Claim(tmp_path, "qra fit")
    with pytest.raises(ValueError, match=f"is written by 'qra fit', process {os.getpid()} on .*another directory"):
        Claim(tmp_path, "qra test")
    claim.release(keep=True)
    Claim(tmp_path, "qra test").release(keep=True)


def test_a_killed_writer_frees_the_directory(tmp_path):
    with light.start(HOLD, tmp_path) as holder:
        holder.stdout.readline()
        with pytest.raises(ValueError, match=f"process {holder.pid}"):
            Claim(tmp_path, "qra fit")
        holder.kill()
    Claim(tmp_path, "qra fit").release(keep=True)


def test_a_writer_whose_name_cannot_be_read_is_still_a_writer(tmp_path):
    with open(tmp_path / LOCK, "w") as file:
        file.write("[" * 2000)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="is written by another process"):
            Claim(tmp_path, "qra fit")


def test_without_locks_it_is_said_and_the_work_goes_on(tmp_path, monkeypatch, capsys):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    Claim(tmp_path / "run", "qra fit").release(keep=True)
    assert "no locks" in capsys.readouterr().err
    assert not list((tmp_path / "run").iterdir())


def test_what_is_not_kept_leaves_no_trace(tmp_path):
    claim = Claim(tmp_path / "runs" / "run", "qra fit")
    (claim.directory / "tensorboard").mkdir()
    (claim.directory / "tensorboard" / "events").touch()
    (claim.directory / "config.yaml").touch()
    claim.release(keep=False)
    assert not list(tmp_path.iterdir())


def test_who_is_refused_removes_nothing(tmp_path):
    claim = Claim(tmp_path, "qra fit")
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(ValueError, match="is written by"):
        Claim(tmp_path, "qra test")
    assert {path.name for path in tmp_path.iterdir()} == {LOCK, "last.ckpt"}
    claim.release(keep=True)


def test_what_was_there_before_stays(tmp_path):
    (tmp_path / "last.ckpt").write_text("before")
    (tmp_path / "config.yaml").write_text("before")
    claim = Claim(tmp_path, "qra fit")
    (tmp_path / "run.json").touch()
    (tmp_path / "config.yaml").write_text("after")
    claim.release(keep=False)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "last.ckpt": "before",
        "config.yaml": "before",
    }


def test_what_others_do_meanwhile_in_a_directory_that_was_theirs_stays(tmp_path):
    (tmp_path / "notes.json").write_text("old")
    claim = Claim(tmp_path, "qra fit")
    (tmp_path / "notes.json").write_text("new")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("new")
    (tmp_path / "run.json").touch()
    (tmp_path / "tensorboard").mkdir()
    claim.release(keep=False)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.json", "thesis"}
    assert (tmp_path / "notes.json").read_text() == (tmp_path / "thesis" / "chapter.tex").read_text() == "new"


def test_of_many_that_want_a_directory_one_has_it_at_a_time(tmp_path):
    """Each writer removes the lock file when it is done, while others wait to open it."""
    script = f"""
import json, sys, time
from pathlib import Path
from qra.runs.directory import Claim
held = 0
end = time.monotonic() + 1
while time.monotonic() < end:
    try:
        claim = Claim(Path({str(tmp_path)!r}), "qra fit")
    except ValueError:
        continue
    mark = Path({str(tmp_path)!r}, "mark")
    mark.touch(exist_ok=False)
    mark.unlink()
    claim.release(keep=True)
    held += 1
print(json.dumps(held))
"""
    writers = [light.start(script) for _ in range(3)]
    found = [writer.communicate() for writer in writers]
    assert all(writer.returncode == 0 for writer in writers), found
    assert sum(json.loads(held) for held, _ in found) > 10


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=str(tmp_path / "file")):
        Claim(tmp_path / "file" / "run", "qra fit")


def test_other_runs_below_the_directory_are_left_alone(tmp_path):
    other = tmp_path / "runs" / "other"
    other.mkdir(parents=True)
    (other / "training.json").write_text("{}")
    (other / "last.ckpt").touch()
    claim = Claim(tmp_path / "runs", "qra fit")
    (other / "training.json").write_text('{"epochs": 1}')
    (other / "best.ckpt").touch()
    late = Claim(tmp_path / "runs" / "late", "qra fit")
    (late.directory / "config.yaml").touch()
    (tmp_path / "runs" / "tensorboard").mkdir()
    (tmp_path / "runs" / "tensorboard" / "events").touch()
    claim.release(keep=False)
    assert (other / "training.json").read_text() == '{"epochs": 1}'
    assert (other / "best.ckpt").exists()
    assert (late.directory / "config.yaml").exists()
    assert not (tmp_path / "runs" / "tensorboard").exists()
    late.release(keep=True)
