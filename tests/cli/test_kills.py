"""Runs that are killed at any moment, wherever temporary files go, come to the figures of one left alone."""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_study as tiny
import torch
from commands import CONFIGS, NETWORK, TINY_FIT, pipeline
from same import end_of, same

from qra.runs import completion
from qra.writing import PARTIAL

pytestmark = pytest.mark.slow

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
BRIEF = [*NETWORK, "--model.init_args.val_attack.steps", "1", "--trainer.logger", "false"]
FIT = [*TINY_FIT, *BRIEF, "--trainer.max_epochs", "40"]
AUTOATTACK = ["--trainer.callbacks+", str(CONFIGS / "callback/autoattack.yaml"), "--trainer.callbacks.n", "40"]
AUTOATTACK += ["--trainer.callbacks.chunk_size", "4", "--trainer.callbacks.attack.eps", "0.5/255"]
AUTOATTACK += ["--trainer.callbacks.attack.steps", "20", "--trainer.callbacks.attack.queries", "200"]
PTQ = ["--trainer.callbacks+", str(CONFIGS / "callback/pwlq.yaml"), "--trainer.callbacks.attack", "qra.attacks.PGD"]
PTQ += ["--trainer.callbacks.attack.steps", "1000"]
OUTCOMES = ("result.json", "correct.npz")


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CONFIGS.parent), **more}


def hear_signals():
    """What a shell starts in the background ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(arguments, **more):
    return subprocess.Popen(
        [sys.executable, "-m", "qra", *map(str, arguments)],
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=hear_signals,
    )


def run_whole(arguments, **more):
    process = start(arguments, **more)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def wait_for(path, process):
    end = time.monotonic() + 300
    while not list(Path().glob(str(path))):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, f"{path} does not come"
        time.sleep(0.005)


def kill(process, number):
    """End a process; return what it said of that."""
    began = time.monotonic()
    process.send_signal(number)
    output, _ = process.communicate()
    assert time.monotonic() - began < 10
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), output
    said = [line for line in output.splitlines() if line.startswith("qra: ") and "warning: " not in line]
    assert len(said) == (number != signal.SIGKILL), output
    assert "Traceback" not in output
    return said


def nothing_is_torn(run):
    """Whether every file of a run can be read."""
    for path in Path(run).rglob("*"):
        if path.name.startswith("."):
            continue
        if path.suffix == ".ckpt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                assert all(arrays[name].size for name in arrays)
        elif path.suffix == ".json":
            json.loads(path.read_text())


def figures(run):
    with np.load(Path(run, "correct.npz"), allow_pickle=False) as arrays:
        found = {name: arrays[name].tolist() for name in arrays}
    return json.loads(Path(run, "result.json").read_text())["outcomes"], found


def no_temporaries(run):
    return not list(Path(run).rglob(f".*{PARTIAL}"))


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=["beside", "elsewhere"])
def temporary(request, tmp_path):
    """A directory for temporary files, on the file system of the runs or on another."""
    if request.param == "beside":
        path = tmp_path / "temporary"
        path.mkdir()
        yield path
        return
    path = Path("/dev/shm", f"qra-{os.getpid()}-{random.randrange(10**9)}")
    path.mkdir()
    assert path.stat().st_dev != tmp_path.stat().st_dev
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def float_run(tmp_path_factory):
    """What a float training comes to that is left alone."""
    run = tmp_path_factory.mktemp("float") / "run"
    run_whole(["fit", *pipeline("float-plain"), *FIT, "--run", run])
    return run


@pytest.fixture(scope="module")
def quantized_run(tmp_path_factory, float_run):
    run = tmp_path_factory.mktemp("quantized") / "run"
    run_whole(["fit", *quantized(float_run), "--run", run])
    return run


def quantized(float_run):
    return [*pipeline("qat-plain"), *FIT, "--model.init_args.init_from", float_run / "best.ckpt"]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("kind", ["float", "quantized"])
def test_a_training_goes_on_to_the_same_weights(float_run, quantized_run, kind, number, temporary):
    fit = ["fit", *(quantized(float_run) if kind == "quantized" else [*pipeline("float-plain"), *FIT]), "--run", "run"]
    process = start(fit, TMPDIR=str(temporary))
    wait_for("run/last.ckpt", process)
    time.sleep(random.random())
    said = kill(process, number)
    assert all(line.endswith("--run run --ckpt_path last") for line in said)
    nothing_is_torn("run")
    assert not completion.read(Path("run")).finished
    assert end_of("run")["epoch"] < 39
    run_whole([*fit, "--ckpt_path", "last"], TMPDIR=str(temporary))
    assert same(end_of("run"), end_of(float_run if kind == "float" else quantized_run))
    assert completion.read(Path("run")).finished
    assert no_temporaries("run")


@pytest.fixture(scope="module")
def tests_left_alone(tmp_path_factory, float_run):
    """What tests find that are left alone, by kind."""
    found = {}
    for kind, options in (("autoattack", AUTOATTACK), ("calibration", PTQ)):
        run = tmp_path_factory.mktemp(kind) / "run"
        run_whole(["test", "--ckpt_path", float_run / "best.ckpt", *options, "--run", run])
        found[kind] = figures(run)
    return found


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_autoattack_goes_on_from_its_chunks_to_the_same_outcomes(float_run, tests_left_alone, number, temporary):
    command = ["test", "--ckpt_path", float_run / "best.ckpt", *AUTOATTACK, "--run", "run"]
    process = start(command, TMPDIR=str(temporary))
    wait_for("run/chunks/autoattack_*/chunk-00001.npz", process)
    time.sleep(random.random() / 3)
    kill(process, number)
    nothing_is_torn("run")
    assert not Path("run/result.json").exists()
    done = {path: path.stat().st_mtime_ns for path in Path("run").glob("chunks/autoattack_*/chunk-*.npz")}
    run_whole(command, TMPDIR=str(temporary))
    assert {path: path.stat().st_mtime_ns for path in done} == done, "a finished chunk was run again"
    assert figures("run") == tests_left_alone["autoattack"]
    assert no_temporaries("run")


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_calibration_comes_to_the_same_outcomes(float_run, tests_left_alone, number, temporary):
    command = ["test", "--ckpt_path", float_run / "best.ckpt", *PTQ, "--run", "run"]
    process = start(command, TMPDIR=str(temporary))
    wait_for("run", process)
    time.sleep(0.7 + random.random())
    kill(process, number)
    nothing_is_torn("run")
    run_whole(command, TMPDIR=str(temporary))
    assert figures("run") == tests_left_alone["calibration"]
    assert no_temporaries("run")


def study_figures():
    return {path.parent.name: figures(path.parent) for path in Path("runs/tiny").glob("*/result.json")}


@pytest.fixture(scope="module")
def study_left_alone(tmp_path_factory):
    root, before = tmp_path_factory.mktemp("study"), Path.cwd()
    os.chdir(root)
    try:
        tiny.write(stages={0: {"options": {"trainer.max_epochs": 20}}})
        run_whole(["study", "run", "tiny.yaml"])
        return study_figures()
    finally:
        os.chdir(before)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("victim", ["runner", "cell"])
def test_a_study_goes_on_to_the_same_figures(study_left_alone, number, victim):
    tiny.write(stages={0: {"options": {"trainer.max_epochs": 20}}})
    process = start(["study", "run", "tiny.yaml"])
    cell = Path("runs/tiny/float-calibration20")
    wait_for(cell / "last.ckpt", process)
    if victim == "runner":
        kill(process, number)
    else:
        children = Path(f"/proc/{process.pid}/task").glob("*/children")
        for child in " ".join(path.read_text() for path in children).split():
            os.kill(int(child), number)
        output, _ = process.communicate()
        assert process.returncode == 1, output
        assert ("fit: killed by SIGKILL" if number == signal.SIGKILL else "stopped") in output
    nothing_is_torn(cell)
    assert not (cell / "result.json").exists()
    run_whole(["study", "run", "tiny.yaml"])
    assert study_figures() == study_left_alone
    assert len(study_figures()) == 4
    assert no_temporaries("runs")


# ----- no room, no right to write -----


@pytest.fixture
def mounted(tmp_path):
    """A function that mounts a small file system; skips where that is not allowed."""
    mounts = []

    def mount(size="4m"):
        path = tmp_path / f"mounted{len(mounts)}"
        path.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounts.append(path)
        return path

    yield mount
    for path in mounts:
        subprocess.run(["umount", path], check=True)


def fill(path):
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def test_a_full_disk_ends_a_training_in_one_line_and_costs_an_epoch(float_run, mounted):
    disk = mounted()
    fit = ["fit", *pipeline("float-plain"), *FIT, "--run", disk / "run"]
    process = start(fit)
    while not (disk / "run/last.ckpt").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    fill(disk / "filler")
    output, _ = process.communicate()
    assert process.returncode == 2, output
    said = [line for line in output.splitlines() if line.startswith("qra: ") and "warning: " not in line]
    assert len(said) == 1
    assert "no space left on the disk; what is done stays: make room and go on by: qra fit" in said[0]
    nothing_is_torn(disk / "run")
    (disk / "filler").unlink()
    run_whole([*fit, "--ckpt_path", "last"])
    assert same(end_of(disk / "run"), end_of(float_run))


def test_a_full_disk_ends_autoattack_in_one_line_and_costs_a_chunk(float_run, tests_left_alone, mounted):
    disk = mounted()
    command = ["test", "--ckpt_path", float_run / "best.ckpt", *AUTOATTACK, "--run", disk / "run"]
    process = start(command)
    while not list(disk.glob("run/chunks/autoattack_*/chunk-00001.npz")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    fill(disk / "filler")
    output, _ = process.communicate()
    assert process.returncode == 2, output
    assert "no space left on the disk" in output.splitlines()[-1]
    nothing_is_torn(disk / "run")
    (disk / "filler").unlink()
    run_whole(command)
    assert figures(disk / "run") == tests_left_alone["autoattack"]


def test_a_read_only_disk_is_one_line(float_run, mounted):
    disk = mounted()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for command in (["fit", *pipeline("float-plain"), *FIT], ["test", "--ckpt_path", float_run / "best.ckpt"]):
        process = start([*command, "--run", disk / "run"])
        output, _ = process.communicate()
        assert process.returncode == 2, output
        assert f"Read-only file system: '{disk}" in output.splitlines()[-1]
        assert "Traceback" not in output


# ----- several processes -----

TWO = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]


def ranks(run):
    """The processes at work on a run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if str(run) in words and "ddp" in words:
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize(
    ("victim", "number"), list(itertools.product((0, 1), SIGNALS)), ids=lambda value: getattr(value, "name", value)
)
@pytest.mark.parametrize("work", ["fit", "test"])
def test_when_one_rank_ends_all_end_within_seconds_with_one_line(float_run, tmp_path, victim, number, work):
    run = tmp_path / "run"
    fit = ["fit", *pipeline("float-plain"), *FIT, "--trainer.max_epochs", "5000"]
    test = ["test", "--ckpt_path", float_run / "best.ckpt", *AUTOATTACK, "--trainer.callbacks.attack.steps", "3000"]
    process = start([*(fit if work == "fit" else test), *TWO, "--run", run])
    wait_for("run/last.ckpt" if work == "fit" else "run/chunks/autoattack_*/settings.json", process)
    time.sleep(1)
    (other,) = set(ranks(run)) - {process.pid}
    os.kill(process.pid if victim == 0 else other, number)
    began = time.monotonic()
    output, _ = process.communicate()
    while ranks(run) and time.monotonic() - began < 20:
        time.sleep(0.05)
    assert not ranks(run)
    assert time.monotonic() - began < 10
    said = [line for line in output.splitlines() if line.startswith("qra: ") and "warning: " not in line]
    assert len(said) == 1, output
    assert "Traceback" not in output
    assert "go on by: qra" in said[0]
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert f"stopped by {number.name}" in said[0]
    elif victim == 0:
        assert process.returncode == -number
        assert f"rank 0 (process {process.pid}) has ended" in said[0]
    else:
        assert process.returncode == 1
        assert f"rank 1 (process {other}) was killed by SIGKILL" in said[0]
    nothing_is_torn(run)
