"""What the pages of docs/ show holds: examples run, options and configs exist, errors are quoted as they are."""

import doctest
import re
import shlex
from pathlib import Path

import pytest
import torch

import qra
from qra.front import options, shipped, tool_arguments

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if not {"_build", "generated", "results"} & set(page.parts)]
WRITTEN = {page.relative_to(DOCS).as_posix(): page.read_text() for page in PAGES}
EXAMPLES = [name for name, text in WRITTEN.items() if ">>>" in text]
COMMANDS = [
    command.partition(" #")[0]
    for text in [*WRITTEN.values(), (ROOT / "CONTRIBUTING.md").read_text()]
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    for command in re.findall(r"^ *\$ (.*)", block.replace("\\\n", " "), re.MULTILINE)
]
PLACEHOLDERS = r"\b(?:[A-Z][A-Z_]*|<class>|\*)"
"""What stands for a part of a message that differs: words in capitals."""


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_example_of_a_page_has_the_result_it_shows(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    torch.manual_seed(0)
    failed, tried = doctest.testfile(str(DOCS / name), module_relative=False)
    assert tried
    assert not failed


def test_there_are_examples_to_run():
    assert {"howto/attack.md", "concepts/gradients.md", "concepts/statistics.md"} <= set(EXAMPLES)


@pytest.mark.parametrize("name", ["README.md", "checkpoints/README.md"])
def test_the_python_of_a_readme_runs_in_a_clone(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
    known = {"x": torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)), "y": torch.tensor([3])}
    exec(code, known)
    assert known["network"](known.get("x_adv", known["x"])).shape == (1, 10)


def test_every_option_that_a_page_names_exists():
    known = {option for command in options.RUNS for option in options.all_options(command)}
    for make in tool_arguments.PARSERS.values():
        parsers = [make(), *tool_arguments.commands_of(make()).values()]
        known |= {name for parser in parsers for action in parser._actions for name in action.option_strings}
    named = {
        option
        for name, text in WRITTEN.items()
        if name not in ("extending.md", "upgrade.md")  # classes of its own, and earlier names
        for option in re.findall(r"(?<![\w-])(--[a-z](?:[\w.-]*\w)?\+?)", _ours(text))
    }
    assert "--evaluation.gradients" in named
    beyond = ("--trainer.callbacks.", "--model.init_args.", "--data.init_args.")
    assert {option for option in named - known if not option.startswith(beyond)} <= {"--version", "--weights_key"}


def _ours(text):
    """A page without the commands of other programs."""
    return re.sub(r"(?:pip|ray|tensorboard|make|docker|torchrun|srun|#SBATCH) [^\n]*", "", text)


def test_every_config_that_a_page_names_exists():
    folders = "|".join(sorted({name.partition("/")[0] for name in shipped.configs()}))
    names = {
        name
        for text in WRITTEN.values()
        for name in re.findall(rf"(?<![\w./-])((?:{folders})/[\w-]+)(?![\w/.-]*\.(?:md|npz)|/)", text)
    }
    assert len(names) > 20
    places = {name for name in names if name.startswith("data/")}  # of data sets, where it is no config
    assert {name for name in names - places if name not in shipped.configs()} <= {"pipeline/NAME", "transfer/NAME"}


def test_every_command_names_a_command():
    ours = [shlex.split(command) for command in COMMANDS if command.startswith("qra ")]
    assert len(ours) > 40
    assert {words[1] for words in ours} <= {*options.RUNS, *tool_arguments.PARSERS, "--help", "--version"}
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = {words[1] for command in COMMANDS if (words := shlex.split(command))[0] == "make"}
    assert {"quickstart", "docs", "test", "lint"} <= made
    assert made <= targets


def test_the_errors_that_are_explained_are_those_that_are_raised():
    source = " ".join(
        re.sub(r'"\s*\n\s*f?"', "", file.read_text()) for file in sorted(Path(qra.__file__).parent.rglob("*.py"))
    )
    quoted = re.findall(r"^### `(.*)`$", WRITTEN["faq.md"], re.MULTILINE)
    assert len(quoted) > 20
    for message in quoted:
        parts = [part.strip(" :,;./?") for part in re.split(PLACEHOLDERS, message)]
        assert [part for part in parts if len(part) > 3 and part not in source] == [], message


def test_the_glossary_explains_what_arguments_are_called():
    terms = set(re.findall(r"^\*\*(.+?)\*\*: \w", WRITTEN["glossary.md"], re.MULTILINE))
    called = {
        "eps",
        "step_size",
        "steps",
        "restarts",
        "start",
        "norm",
        "bit_width",
        "alpha",
        "temperature",
        "kd_weight",
    }
    assert called | {"beta", "fraction", "seed", "split_seed", "init_from", "ste", "ste_soft", "hard"} <= terms
