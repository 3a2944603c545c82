"""Studies from the command line."""

import json
import shlex
import sys
from pathlib import Path

import pytest
import tiny_study as tiny
from commands import CONFIGS, qra, refused

from qra.study import expand
from qra.study.definition import load_study

BROKEN = {"sources": {"plain": "float", "absent": "none.ckpt"}, "stages": {0: {"init": ["absent"]}}}
"""The first cell, which all others need, starts from a file without weights."""


def pipelines():
    """One command of each kind in each ready study, as a parameter."""
    seen = set()
    for path in sorted((CONFIGS / "study").glob("*.yaml")):
        study = load_study(path)
        stages = {stage.name: stage for stage in study.stages}
        for cell in expand(study):
            for command in cell.commands:
                options = tuple(word for word in command if word.startswith("--"))
                kind = (command[0], stages[cell.stage].pipeline, cell.coordinates["quantizer"], options)
                if kind not in seen:
                    seen.add(kind)
                    name = f"{path.stem}-{cell.name}-{command[0]}"
                    marks = () if path.stem == "quickstart" else pytest.mark.slow
                    yield pytest.param(command, stages[cell.stage].pipeline, id=name, marks=marks)


@pytest.mark.parametrize(("command", "pipeline"), list(pipelines()))
def test_each_command_of_the_ready_studies_is_understood(command, pipeline):
    words = list(command)
    if "--config" not in words:  # that beside the checkpoint, which the training has made from the pipeline
        words[1:1] = ["--config", pipeline]
    output, code = qra(*words, "--print_config")
    assert code == 0, output
    assert "class_path" in output


def test_list_prints_commands_to_type():
    output, code = qra("study", "list", CONFIGS / "study/quickstart.yaml", "--only", "qat-at*w2a2", "--runs", "here")
    assert code == 0, output
    lines = output.splitlines()
    assert [line for line in lines if line.startswith("#")] == ["# float-at", "# qat-at-robust-pact-w2a2"]
    fit = shlex.split(lines[4])
    assert fit[:2] == ["qra", "fit"]
    assert fit[fit.index("--model.init_args.init_from") + 1] == "here/quickstart/float-at/best.ckpt"


def test_status_tells_what_is_missing():
    tiny.write()
    output, code = qra("study", "status", "tiny.yaml")
    assert code == 0, output
    assert "ptq-plain-pwlq-w2a8-calibration20" in output
    assert "4 missing" in output


def test_a_failed_cell_is_named_and_the_exit_code_says_so(tmp_path, monkeypatch):
    tiny.write(**BROKEN)
    Path("none.ckpt").touch()
    interpreter = tmp_path / "python"  # that of tests/study/test_runner.py is real, and takes seconds
    interpreter.write_text("#!/bin/sh\necho 'qra: error: none.ckpt: is no checkpoint'\nexit 2\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    output, code = qra("study", "run", "tiny.yaml")
    assert code == 1, output
    assert "failed   float-absent-calibration20: fit: none.ckpt: is no checkpoint" in output
    assert "1 failed, 3 missing" in output
    assert "log: runs/tiny/float-absent-calibration20/log.txt" in output
    output, code = qra("study", "status", "tiny.yaml")
    assert code == 0, output
    assert "1 failed" in output
    assert "it needs float-absent-calibration20, which failed" in output


@pytest.mark.parametrize(
    ("changes", "arguments", "reason"),
    [
        ({"seeds": [0]}, ["list"], "tiny.yaml: unknown key 'seeds'"),
        ({"stages": {2: {"bits": []}}}, ["list"], "stage qat: the axis bits is empty"),
        ({"stages": {2: {"init": ["robust"]}}}, ["run"], "stage qat: init 'robust' is not one of random, plain"),
        ({"sources": {"plain": "float-plain"}}, ["run"], "sources.plain: no stage makes 'float-plain'"),
        ({}, ["run", "--only", "nothing"], "no cell matches 'nothing'"),
        ({}, ["run", "--shard", "2/2"], "shard 2/2: shards are numbered from 0 to 1"),
        ({}, ["run", "--shard", "second"], "--shard second: write I/N for shard I, from 0, of N, such as 0/4"),
        ({}, ["run", "--jobs", "0"], "jobs is 0"),
        ({}, ["run", "--set", "trainer.max_epochs"], "--set trainer.max_epochs: write NAME=VALUE"),
        ({}, ["run", "--set", "data.init_args.seed=1"], "data.init_args.seed is set by options and by seed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_study_or_argument_is_one_line(changes, arguments, reason):
    tiny.write(**changes)
    assert reason in refused("study", arguments[0], "tiny.yaml", *arguments[1:])
    assert not Path("runs").exists()


def test_a_directory_of_another_version_is_refused():
    tiny.write()
    directory = Path("runs/tiny/float-calibration20")
    directory.mkdir(parents=True)
    record = {
        "schema": 1,
        "hash": "0",
        "state": "done",
        "definition": {"fit": {"trainer.max_epochs": "3"}},
        "seconds": {"fit": 1},
    }
    (directory / "cell.json").write_text(json.dumps(record))
    reason = refused("study", "run", "tiny.yaml")
    assert reason.startswith("1 cell is of another version of the study, first runs/tiny/float-calibration20: fit.")
    assert reason.endswith("run them again by --redo, or give the study another name")


def test_without_ray_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    tiny.write()
    reason = refused("study", "run", "tiny.yaml", "--ray", "local")
    assert "Ray is not installed: pip install 'quantization-robustness[cluster]'" in reason
