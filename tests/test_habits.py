"""What contributors and machines are told to do can be done: hooks, workflows, targets, citation."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

import qra

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def runs(workflow):
    return [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_workflow_runs_what_is_there(file):
    workflow = yaml.safe_load(file.read_text())
    targets = set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))
    for command in runs(workflow):
        assert set(re.findall(r"\bmake ([\w-]+)", command)) <= targets
        assert all((ROOT / script).exists() for script in re.findall(r"\bbash (\S+)", command))
    assert workflow["permissions"] == {"contents": "read"}


def test_there_are_the_four_workflows_and_tests_are_those_of_ci():
    workflows = {file.stem: yaml.safe_load(file.read_text()) for file in WORKFLOWS}
    assert workflows.keys() == {"test", "minimum", "docs", "release"}
    assert "bash .ci/run" in runs(workflows["test"])
    assert "bash .ci/run" in runs(workflows["release"])
    pythons = workflows["test"]["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert pythons == re.findall(r"Python :: (3\.\d+)", (ROOT / "setup.cfg").read_text())


def test_hooks_are_local_and_call_what_make_installs():
    found = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in found["repos"]] == ["local"]
    hooks = found["repos"][0]["hooks"]
    assert {hook["id"] for hook in hooks} == {"ruff", "format", "mypy", "docs"}
    assert all(hook["entry"].startswith(".venv/bin/") for hook in hooks)


def test_the_lowest_versions_are_those_of_every_requirement():
    script = re.search(r"sed -nE '(.*)' setup\.cfg", MAKEFILE)[1]
    listed = subprocess.run(["sed", "-nE", script, "setup.cfg"], cwd=ROOT, capture_output=True, text=True, check=True)
    lowest = dict(line.split("==") for line in listed.stdout.split())
    required = (ROOT / "setup.cfg").read_text().partition("install_requires =")[2].partition("\n\n")[0].split()
    bounded = {re.match(r"[\w-]+", line)[0]: re.search(r">=([\d.]+)", line) for line in required}
    assert {name: found[1] for name, found in bounded.items() if found} == {
        name: version for name, version in lowest.items() if name in bounded
    }
    assert {name for name, found in bounded.items() if not found} == {"pyautoattack"}  # one version alone


def test_the_citation_names_the_licence_and_the_paper():
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "title", "message", "authors"} <= found.keys()
    assert found["license"] in (ROOT / "LICENSE").read_text()
    assert "arXiv:2404.05639" in str(found["references"])


@pytest.mark.parametrize(
    "file", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda file: file.stem
)
def test_an_issue_form_has_what_a_form_needs(file):
    form = yaml.safe_load(file.read_text())
    assert {"name", "description", "body"} <= form.keys()
    assert all(field["type"] in ("textarea", "input") and field["attributes"]["label"] for field in form["body"])


def test_the_version_of_a_release_is_found_where_the_workflow_looks():
    assert f'__version__ = "{qra.__version__}"' in (ROOT / "qra/version.py").read_text().splitlines()
