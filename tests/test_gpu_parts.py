"""``benchmarks/gpu.py`` runs each part in a process of its own, within its time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DIRECTORY = Path(__file__).parents[1] / "benchmarks"
PROGRAM = """
import sys
import gpu
from gpu import Job

gpu.GRACE = 1
failing, last = (Job(name, 60, "scripted", words) for name, words in (("bad", "--fail"), ("last", "")))
slow, lacking = Job("slow", 2, "scripted", "--sleep"), Job("lacking", 60, "absent", "")
good = Job("good", 60, "scripted", "--say 'two words'")
gpu.PARTS = {"tests": [], "good": [good], "bad": [failing, slow, lacking, last]}
gpu.COMPILED, gpu.TESTS_LIMIT = [good._replace(name="compiled")], 2
out = ["--device", "cpu", "--out", sys.argv[1]]
gpu.main(out)
gpu.main([*out, "--parts", "good", "--seconds", "5"])
gpu.main([*out, "--parts", "goods"])
"""
SCRIPT = """
import json, os, pathlib, subprocess, sys, time

def main(words):
    print(words)
    print(os.getpid())
    if "--fail" in words:
        raise ValueError("no such thing")
    if "--sleep" in words:
        subprocess.run([sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"])
    if "--json" in words:
        pathlib.Path(words[words.index("--json") + 1]).write_text("{}")
"""
MAKE = """#!/bin/sh
echo $$
exec sleep 600
"""


@pytest.mark.slow
def test_parts_that_fail_or_take_too_long_leave_the_others_alone(tmp_path):
    (tmp_path / "scripted.py").write_text(SCRIPT)
    (tmp_path / "make").write_text(MAKE)
    (tmp_path / "make").chmod(0o700)
    out = tmp_path / "out"
    paths = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(DIRECTORY)]), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment = {**os.environ, **paths}
    command = [sys.executable, "-c", PROGRAM, str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "invalid choice: 'goods' (choose from" in done.stderr
    lines = done.stdout.splitlines()
    ends = ["compiled: done", "tests: ended with 143", "good: done", "bad: ended with 1", "slow: ended with 143"]
    ends += ["lacking: ended with 1", "last: done", "good: no time left"]
    assert [line.partition(" at ")[0] for line in lines if ": done" in line or " at " in line or "left" in line] == ends
    assert "ValueError: no such thing" in lines
    assert {path.name for path in out.glob("*.json")} == {"good.json", "last.json"}
    words = (out / "good.log").read_text().splitlines()[0]
    assert words == str(["--say", "two words", "--device", "cpu", "--json", str(out / "good.json")])
    for name in ("slow", "tests"):
        started = int((out / f"{name}.log").read_text().splitlines()[-1])
        with pytest.raises(ProcessLookupError):
            os.kill(started, 0)
