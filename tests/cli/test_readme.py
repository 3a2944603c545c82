"""What the README shows can be typed."""

import re
import shlex
from pathlib import Path

import pytest
from commands import CONFIGS, qra

ROOT = CONFIGS.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.removeprefix("$ ").partition(" #")[0]
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
LIGHTNING = [command for command in COMMANDS if re.match(r"qra +(fit|validate|test|predict) ", command)]


@pytest.fixture(scope="module")
def config():
    """What a training saves."""
    return qra("fit", "--config", CONFIGS / "pipeline/float-at.yaml", "--print_config")[0]


@pytest.fixture
def a_run(config):
    """The configs, and a run directory as a training would leave it."""
    Path("configs").symlink_to(CONFIGS)
    Path("runs/float-at").mkdir(parents=True)
    Path("runs/float-at/config.yaml").write_text(config)


@pytest.mark.parametrize("command", LIGHTNING)
@pytest.mark.usefixtures("a_run")
def test_each_command_is_understood(command):
    words = shlex.split(command)[1:]
    if "--config" not in words:
        words[1:1] = ["--config", "runs/float-at/config.yaml"]
    output, code = qra(*words, "--print_config")
    assert code == 0, output
    assert "class_path" in output


def test_there_are_commands_to_try():
    assert len(LIGHTNING) >= 8
    assert {"make quickstart", "make test"} <= {command.strip() for command in COMMANDS}


def test_every_file_it_names_is_there():
    named = set(re.findall(r"\b((?:configs|docs|checkpoints|benchmarks)/[\w./-]*)", README))
    assert named
    missing = [name for name in named if not any((ROOT / f"{name}{end}").exists() for end in ("", ".ckpt"))]
    assert not missing
