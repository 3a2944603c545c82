"""A file is what it was or what it is to be, at any moment."""

import errno
import fcntl
import os
import resource
import signal
import time
from pathlib import Path

import light
import numpy as np
import pytest

from qra.writing import PARTIAL, filling, replacing, write_arrays, write_bytes, write_json

ENDLESS = """
import sys
from qra.writing import write_bytes
for number in range(1_000_000):
    write_bytes(sys.argv[1], bytes([number % 256]) * 300_000)
"""
FILLING = """
import sys, time
from qra.writing import filling
with filling(sys.argv[1]) as directory:
    (directory / "first").touch()
    time.sleep(60)
"""


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_file_that_fails_midway_leaves_the_old_one_and_nothing_else(tmp_path):
    target = tmp_path / "file"
    write_bytes(target, b"old")
    with pytest.raises(TypeError), replacing(target) as file:
        file.writelines([b"new", "text"])
    with pytest.raises(TypeError):
        write_json(target, {"accuracy": object()})
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_where_there_is_no_room_the_old_file_stays_and_the_error_names_it(tmp_path):
    target = tmp_path / "file"
    write_bytes(target, b"old")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OSError, match=str(target)) as raised:
            write_bytes(target, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert raised.value.errno == errno.EFBIG
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_what_is_renamed_is_on_the_disk_before(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("sync"), sync(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
    write_arrays(tmp_path / "file.npz", {"a": np.arange(3)})
    assert done == ["sync", "replace", "sync"], "the file, the name, the directory"


def test_temporaries_lie_beside_the_target(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/nowhere")
    with replacing(tmp_path / "file") as file:
        assert Path(file.name).parent == tmp_path


def test_what_a_killed_writer_has_left_is_removed_by_the_next(tmp_path):
    left = tmp_path / f".file.0123{PARTIAL}"
    left.write_bytes(b"torn")
    of_another = tmp_path / f".other.0123{PARTIAL}"
    of_another.touch()
    write_bytes(tmp_path / "file", b"new")
    assert names(tmp_path) == [of_another.name, "file"]


def test_what_another_process_is_writing_is_left_alone(tmp_path):
    with open(tmp_path / f".file.0123{PARTIAL}", "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        write_bytes(tmp_path / "file", b"new")
        assert Path(other.name).exists()


def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    target = tmp_path / "file"
    for pause in (0.0, 0.013):
        with light.start(ENDLESS, target) as writer:
            while not target.exists():
                time.sleep(0.001)
            time.sleep(pause)
            writer.kill()
        content = target.read_bytes()
        assert len(content) == 300_000
        assert len(set(content)) == 1
        target.unlink()
    write_bytes(target, b"new")
    assert names(tmp_path) == ["file"]


def test_files_come_to_be_in_a_directory_together(tmp_path):
    with filling(tmp_path / "above" / "out") as partial:
        (partial / "file").touch()
        assert not (tmp_path / "above" / "out").exists()
    assert names(tmp_path / "above") == ["out"]
    assert names(tmp_path / "above" / "out") == ["file"]


def test_a_directory_that_fails_midway_is_not_made(tmp_path):
    with pytest.raises(TypeError), filling(tmp_path / "out") as partial:
        (partial / "file").write_text(1)
    assert not names(tmp_path)


def test_an_empty_directory_is_filled_and_stays_the_same_one(tmp_path):
    number = tmp_path.stat().st_ino
    with filling(tmp_path) as partial:
        (partial / "file").touch()
    assert (tmp_path.stat().st_ino, names(tmp_path)) == (number, ["file"])


def test_a_killed_writer_leaves_no_directory_and_the_next_removes_what_it_left(tmp_path):
    with light.start(FILLING, tmp_path / "out") as writer:
        while not list(tmp_path.glob(f".out.*{PARTIAL}/first")):
            time.sleep(0.001)
        with filling(tmp_path / "out"):  # which leaves alone what is being written
            assert len(names(tmp_path)) == 2
        (tmp_path / "out").rmdir()
        writer.kill()
    assert not (tmp_path / "out").exists()
    with filling(tmp_path / "out"):
        pass
    assert names(tmp_path) == ["out"]
