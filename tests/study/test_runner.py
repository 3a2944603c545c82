"""Cells run in their order, go on after a kill, and fail alone."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import pytest
import tiny_study as tiny
from rich.console import Console

from qra.study import expand
from qra.study.cell import run_cell
from qra.study.definition import load_study
from qra.study.directory import State, state
from qra.study.runner import Estimate, LocalWorkers, check_versions, run, states, tasks

CHECKPOINT = tiny.CONFIGS.parent / "checkpoints/float-plain.ckpt"
NAME = "float-plain-calibration20"
TESTED = {
    "sources": {"plain": str(CHECKPOINT)},
    "options": {name: value for name, value in tiny.STUDY["options"].items() if "network" not in name},
    "stages": {0: {"training": "none", "init": ["plain"]}},
}
"""Changes of the study that make its first cell one that trains nothing."""
RUN = "runs/tiny/float-calibration20"
UNFINISHED = {"schema": 1, "finished": False, "epochs": 3, "epochs_asked": 40, "validated": True}
OTHER_VERSION = {**TESTED, "test": {**tiny.STUDY["test"], "evaluation.n": 20}}


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def work(path="tiny.yaml", only=None, redo=False):
    study = load_study(path)
    found = tasks(study, expand(study), redo)
    return found if only is None else {name: found[name] for name in only}


def quiet():
    return Console(file=io.StringIO(), width=200)


class AtOnce:
    """Workers that end every cell as told, at once."""

    slots = 1

    def __init__(self, failing=(), stopping=()):
        self.failing = failing
        self.stopping = stopping
        self.ran = []

    def submit(self, task):
        self.ran.append(task.cell.name)
        future = Future()
        if task.cell.name.startswith(self.failing):
            future.set_result(State("failed", "broken"))
        elif task.cell.name.startswith(self.stopping):
            future.set_result(State("stopped", "fit was stopped by SIGTERM"))
        else:
            future.set_result(State("done", None, {"fit": 60.0}))
        return future


def test_cells_run_after_those_that_they_need():
    tiny.write(seed=[0, 1])
    workers = AtOnce()
    ended = run(work(), workers, quiet())
    assert all(place.name == "done" for place in ended.values())
    assert sorted(workers.ran) == sorted(ended)
    for name, task in work().items():
        assert all(workers.ran.index(need) < workers.ran.index(name) for need in task.cell.needs)


def test_a_failure_stops_only_what_needs_it():
    tiny.write(seed=[0, 1])
    workers, console = AtOnce(failing=("float-calibration20-seed1",)), quiet()
    ended = run(work(), workers, console)
    lost = {name for name, place in ended.items() if place.name != "done"}
    assert lost == {name for name in ended if name.endswith("seed1")}
    assert ended["ptq-plain-pwlq-w4a8-calibration20-seed1"].reason == "it needs float-calibration20-seed1, which failed"
    assert not any(name.endswith("seed1") for name in workers.ran[2:])
    output = console.file.getvalue()
    assert "failed   float-calibration20-seed1: broken (log: runs/tiny/float-calibration20-seed1/log.txt)" in output


def test_what_was_stopped_stops_what_needs_it_and_is_told_apart_from_a_failure():
    tiny.write()
    workers, console = AtOnce(stopping=("float",)), quiet()
    ended = run(work(), workers, console)
    assert workers.ran == ["float-calibration20"]
    assert ended["qat-plain-pact-w4a4-calibration20"].reason == "it needs float-calibration20, which was stopped"
    assert "stopped  float-calibration20: fit was stopped by SIGTERM; the next run continues" in console.file.getvalue()


def test_the_time_left_is_told_from_measured_cells():
    tiny.write()
    console = quiet()
    run(work(), AtOnce(), console)
    assert "about 3 min 00 s left" in console.file.getvalue()
    estimate = Estimate()
    cells = [task.cell for task in work().values()]
    assert estimate.total(cells) is None
    estimate.measured("float", State("done", None, {"fit": 10.0, "test": 2.0}))
    estimate.measured("ptq", State("done", None, {"test": 4.0}))
    assert estimate.total(cells) == 12 + 4 + 4 + 8


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A directory with a study of one cell, which is done."""
    root = tmp_path_factory.mktemp("finished")
    before = Path.cwd()
    os.chdir(root)
    try:
        tiny.write(**TESTED)
        with LocalWorkers(1) as workers:
            (ended,) = run(work(only=[NAME]), workers, quiet()).values()
        assert ended.name == "done", Path("runs/tiny", NAME, "log.txt").read_text()
    finally:
        os.chdir(before)
    return root


@pytest.fixture
def cell(finished, tmp_path):
    """The directory of a cell that is done."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path / "runs/tiny" / NAME


def only_task(**keys):
    return work(only=[NAME], **keys)[NAME]


def test_a_cell_leaves_its_place_its_commands_and_its_times(cell):
    record = json.loads((cell / "cell.json").read_text())
    assert record["state"] == "done"
    assert record["coordinates"]["training"] == "none"
    assert record["commands"][0][0] == "test"
    assert record["hash"] == only_task().hash
    assert record["seconds"]["test"] > 0
    assert {"result.json", "correct.npz", "log.txt", "test"} <= {path.name for path in cell.iterdir()}
    assert (cell / "log.txt").read_text().startswith("$ qra test --config ")


def test_the_threads_of_a_cell_are_those_of_the_study(cell):
    found = [json.loads((cell / name).read_text())["threads"] for name in ("cell.json", "result.json")]
    assert found == [1, 1]


def test_a_cell_that_is_done_does_not_run_again(cell):
    before = (cell / "result.json").stat().st_mtime_ns
    assert run_cell(only_task()).name == "done"
    assert (cell / "result.json").stat().st_mtime_ns == before


@pytest.fixture
def interpreter(tmp_path, monkeypatch):
    """A function that has a script stand in for the interpreter, which takes seconds to import what a command needs."""

    def stand_in(script):
        file = tmp_path / "python"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(file))

    return stand_in


def cut_short(cell):
    (cell / "result.json").write_text('{"schema": 1, "outc')
    assert state(only_task()).reason == "its result.json is incomplete"


def test_a_result_that_is_cut_short_is_made_again(cell, interpreter):
    whole = (cell / "result.json").rename(cell.parent / "whole.json")
    cut_short(cell)
    interpreter(f'echo "$@" > commands; cp {whole} {cell}/result.json')
    assert run_cell(only_task()).name == "done"
    assert Path("commands").read_text().startswith("-m qra test --config ")
    assert (cell / "result.json").read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_a_result_that_is_made_again_is_the_same(cell):
    whole = json.loads((cell / "result.json").read_text())["outcomes"]
    cut_short(cell)
    assert run_cell(only_task()).name == "done"
    assert json.loads((cell / "result.json").read_text())["outcomes"] == whole


def test_a_cell_of_another_version_is_refused_with_what_changed(cell):
    tiny.write(**OTHER_VERSION)
    found = state(only_task())
    assert found.name == "changed"
    with pytest.raises(ValueError, match=r"test\.evaluation\.n was 10 and is 20; run them again by --redo"):
        check_versions({NAME: found}, {NAME: only_task()})
    with pytest.raises(ValueError, match="evaluation"):
        run_cell(only_task())
    assert json.loads((cell / "cell.json").read_text())["state"] == "done"


@pytest.mark.slow
def test_a_cell_of_another_version_is_made_anew_on_request_and_what_was_measured_stays(cell):
    before = (cell / "result.json").read_bytes()
    (cell / "chunks/fmn-0123").mkdir(parents=True)
    tiny.write(**OTHER_VERSION)
    assert run_cell(only_task(redo=True)).name == "done"
    assert json.loads((cell / "result.json").read_text())["outcomes"]["pgd2_8"]["n"] == 20
    assert (cell / "earlier/1/result.json").read_bytes() == before
    assert (cell / "earlier/1/correct.npz").exists()
    assert (cell / "chunks/fmn-0123").exists()


@pytest.mark.parametrize("redo", [False, True])
def test_a_run_that_is_of_no_study_is_left_alone(cell, redo):
    (cell / "cell.json").unlink()
    task = only_task(redo=redo)
    assert state(task) == State("foreign", "result.json does not belong to a study")
    with pytest.raises(ValueError, match=r"result\.json does not belong to a study; move it away"):
        check_versions({NAME: state(task)}, {NAME: task}, redo)
    with pytest.raises(ValueError, match=r"result\.json does not belong to a study"):
        run_cell(task)
    assert (cell / "result.json").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": 2}, "its cell.json is of schema 2, not 1"),
        ({"schema": None}, "its cell.json is of schema None, not 1"),
        ({"hash": None}, "its cell.json has no hash"),
        ({"state": None}, "its cell.json has no state"),
        ({"seconds": [1]}, "its cell.json has no seconds"),
        ({"definition": None}, "its cell.json has no definition"),
    ],
    ids=str,
)
def test_a_record_of_another_version_or_without_its_keys_is_refused(cell, change, reason):
    record = json.loads((cell / "cell.json").read_text()) | change
    (cell / "cell.json").write_text(json.dumps({key: value for key, value in record.items() if value is not None}))
    assert state(only_task()) == State("changed", reason)
    with pytest.raises(ValueError, match=reason):
        run_cell(only_task())


@pytest.mark.parametrize("code", [0, 143, -signal.SIGINT])
def test_a_training_that_is_not_finished_is_not_done_whatever_its_exit_code(interpreter, code):
    """As one that was stopped in its third epoch."""
    end = f"exit {code}" if code >= 0 else f"kill -{-code} $$"
    interpreter(f"echo '{json.dumps(UNFINISHED)}' > {RUN}/training.json\n{end}")
    tiny.write()
    task = work(only=["float-calibration20"])["float-calibration20"]
    ended = run_cell(task)
    if code:
        name = signal.Signals(abs(code) % 128).name
        assert ended == State("stopped", f"fit was stopped by {name}", {})
        assert state(task).name == "missing"
    else:
        assert ended == State("failed", "fit: its training is unfinished, 3 of 40 epochs done", {})


def test_a_done_cell_whose_training_is_not_finished_is_not_done(cell):
    record = json.loads((cell / "cell.json").read_text())
    tiny.write()
    task = work(only=["float-calibration20"])["float-calibration20"]
    directory = shutil.copytree(cell, task.directory)
    (directory / "cell.json").write_text(json.dumps(record | {"hash": task.hash}))
    assert state(task).name == "done", "as those of an earlier version, which says nothing of it"
    (directory / "training.json").write_text(json.dumps(UNFINISHED))
    assert state(task).reason == "its training is unfinished, 3 of 40 epochs done"


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_cell_that_fails_keeps_its_log_and_says_why(tmp_path, interpreter, real):
    if not real:
        interpreter("echo 'qra: error: none.ckpt: there is no such checkpoint' >&2; exit 2")
    tiny.write(**{**TESTED, "sources": {"plain": "none.ckpt"}})
    found = run_cell(only_task())
    assert found == State("failed", "test: none.ckpt: there is no such checkpoint", {})
    log = (tmp_path / "runs/tiny" / NAME / "log.txt").read_text()
    assert "qra: error: none.ckpt: there is no such checkpoint" in log
    assert states(work())[NAME].name == "failed"


def test_the_training_of_a_cell_that_was_killed_is_gone_on_with(tmp_path):
    tiny.write()
    (task,) = work(only=["float-calibration20"]).values()
    assert task.cell.commands[0][0] == "fit"
    run_until_begun(task)
    Path(task.directory, "last.ckpt").touch()  # what a finished epoch leaves
    run_until_begun(task)
    begun = [line for line in Path(task.directory, "log.txt").read_text().splitlines() if line.startswith("$ qra fit")]
    assert [line.endswith("--ckpt_path last") for line in begun] == [False, True]


def run_until_begun(task):
    """Run a cell, and stop it with its first command."""
    log, before = task.directory / "log.txt", commands_in(task.directory / "log.txt")
    assert run_cell(task, lambda: commands_in(log) > before).reason == "it was interrupted"


def commands_in(log):
    return log.read_text().count("$ qra ") if log.exists() else 0


def test_a_full_disk_is_one_line(tmp_path):
    tiny.write(**TESTED)
    directory = tmp_path / "runs/tiny" / NAME
    directory.mkdir(parents=True)
    (directory / "log.txt").symlink_to("/dev/full")
    with pytest.raises(OSError, match="no space left on the disk; what is done stays"):
        run_cell(only_task())


# ----- the whole of it, in real processes -----


def command(*arguments):
    return [sys.executable, "-m", "qra", "study", *arguments, "tiny.yaml"]


def outcomes(root="runs"):
    return {
        path.parent.name: json.loads(path.read_text())["outcomes"] for path in Path(root).glob("tiny/*/result.json")
    }


def trainings():
    return {path.parent.name: path.read_text().count("$ qra fit") for path in Path("runs/tiny").glob("*/log.txt")}


@pytest.mark.slow
def test_the_same_study_gives_the_same_figures_whatever_the_jobs():
    tiny.write()
    subprocess.run([*command("run"), "--jobs", "1"], check=True, capture_output=True)
    subprocess.run([*command("run"), "--jobs", "3", "--runs", "again"], check=True, capture_output=True)
    assert len(outcomes()) == 4
    assert outcomes() == outcomes("again")
