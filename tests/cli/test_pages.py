"""What the pages of docs/ show can be typed."""

import re
import shlex
from pathlib import Path

import pytest
from commands import CONFIGS, qra

DOCS = CONFIGS.parent / "docs"
ELSEWHERE = ("extending.md", "results.md")
"""Pages whose commands need files that the page makes, or stand for others."""
PAGES = [page for page in sorted([*DOCS.glob("*.md"), *DOCS.glob("*/*.md")]) if page.name not in ELSEWHERE]
LIGHTNING = sorted(
    {
        command.partition(" #")[0]
        for page in PAGES
        if page.parent.name != "generated"
        for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
        for command in re.findall(
            r"^ *\$ (qra (?:fit|validate|test|predict) .*)", block.replace("\\\n", " "), re.MULTILINE
        )
        if "runs/NAME" not in command
    }
)


@pytest.fixture(scope="module")
def config():
    """What a training saves."""
    return qra("fit", "--config", "pipeline/float-at", "--print_config")[0]


@pytest.fixture
def _a_run(config):
    """A run directory as a training would leave it, for commands that go on from one."""
    Path("runs/float-at").mkdir(parents=True)
    Path("runs/float-at/config.yaml").write_text(config)
    Path("runs/float-at/best.ckpt").write_bytes(b"")


def test_there_are_commands_to_try():
    assert len(LIGHTNING) >= 25


@pytest.mark.slow
@pytest.mark.parametrize("command", LIGHTNING)
@pytest.mark.usefixtures("_a_run")
def test_each_command_is_understood(command):
    output, code = qra(*shlex.split(command)[1:], "--print_config")
    assert code == 0, output
    assert "class_path" in output
