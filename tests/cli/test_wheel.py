"""What an ordinary install does, far from the source: a wheel, built and unpacked elsewhere."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import tiny_study as tiny
from commands import CONFIGS, SMALL_DATA

ROOT = CONFIGS.parent
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
SMALL = " ".join(f"--data.{name} {value}" for name, value in SMALL_DATA.items())
FIT = f"fit --config pipeline/quickstart-plain {SMALL} --trainer.max_epochs 1 --model.val_attack.steps 1"
QUICK = "--trainer.accelerator cpu --trainer.enable_progress_bar false --trainer.logger false"
ATTACK = "--evaluation.n 10 --evaluation.steps 2 --evaluation.eps '[2/255, 8/255]'"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what a build needs, so that none of its leftovers come into the clone or from it."""
    copied = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copied)
    unbuilt = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "configs", copied / "configs")
    shutil.copytree(ROOT / "qra", copied / "qra", symlinks=True, ignore=unbuilt)
    return copied


def wheel_of(source, directory):
    build = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", directory, source]
    subprocess.run(list(map(str, build)), check=True)
    (wheel,) = Path(directory).glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(source, tmp_path_factory):
    """The directory that the wheel was installed into."""
    target = tmp_path_factory.mktemp("installed")
    wheel = wheel_of(source, tmp_path_factory.mktemp("wheel"))
    subprocess.run([*PIP, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)], check=True)
    return target


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A directory outside the clone, where one command follows the other."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def python(installed, elsewhere):
    """A function that runs a program of one line, which gets the other arguments, and returns what it prints."""

    def run(*words):
        environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *(("-c",) if words[0] != "-m" else ()), *words]
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def qra(python):
    return lambda command: python("-m", "qra", *shlex.split(command))


def test_the_wheel_holds_every_module_and_every_config(installed):
    modules = {path.relative_to(ROOT) for path in (ROOT / "qra").rglob("*.py")}
    configs = {Path("qra", path.relative_to(ROOT)) for path in CONFIGS.rglob("*.yaml")}
    assert len(modules) > 100
    assert len(configs) > 40
    assert all((installed / path).is_file() for path in modules | configs | {Path("qra/py.typed")})


def test_the_front_door_opens(qra):
    assert "qra COMMAND" in qra("--help")
    assert qra("--version").startswith("qra 0.")
    assert "pipeline/float-at" in qra("configs")
    assert "complete -o default -F _qra qra" in qra("completion bash")


def test_a_run_is_made_and_tested_and_doctor_looks_around(python, elsewhere):
    """In one process, since what takes long is to import."""
    program = "import shlex, sys; from qra.cli import main; [main(shlex.split(line)) for line in sys.argv[1:]]"
    test = f"test --ckpt_path runs/quickstart-plain/best.ckpt {QUICK} {ATTACK}"
    output = python(program, f"{FIT} {QUICK}", test, "doctor")
    assert output.count("GPU available") == 1  # though three trainers were made
    assert "next: qra test --ckpt_path runs/quickstart-plain/best.ckpt" in output
    assert "PGD-2" in output
    assert "disk here" in output
    assert json.loads((elsewhere / "runs/quickstart-plain/result.json").read_text())["untrained"] is False


@pytest.mark.slow
def test_a_study_is_run_and_reported(qra, elsewhere):
    shutil.copy(tiny.NETWORK, elsewhere / "network.yaml")
    options = {**tiny.STUDY["options"], "data": "data/synthetic", "model.network": "network.yaml"}
    del options["model.init_args.network"]
    stage = {**tiny.STUDY["stages"][0], "pipeline": "pipeline/float-plain"}
    study = {**tiny.STUDY, "options": options, "stages": [stage], "quantizers": {"pwlq": "callback/pwlq"}}
    Path(elsewhere, "small.yaml").write_text(json.dumps(study))
    assert "1 done" in qra("study run small.yaml")
    assert "report.html" in qra("report runs/small")
    assert "qra fit --config pipeline/quickstart-plain" in qra("study list study/quickstart")


@pytest.mark.slow
def test_an_empty_virtual_environment_gets_a_working_command(source, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True, system_site_packages=False)
    python = tmp_path / "venv/bin/python"
    wheel = wheel_of(source, tmp_path)
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(list(map(str, [*pip, "install", "--no-deps", "--no-index", wheel])), check=True)
    site = next(path for path in map(Path, sys.path) if (path / "torch").is_dir())
    packages = next((tmp_path / "venv/lib").glob("python*/site-packages"))
    (packages / "dependencies.pth").write_text(f"{site}\n")
    command = tmp_path / "venv/bin/qra"
    test = f"test --ckpt_path runs/quickstart-plain/best.ckpt {QUICK} {ATTACK}"
    for words in ("--help", "--version", "configs", "doctor", f"{FIT} {QUICK}", test):
        line = [str(command), *shlex.split(words)]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
