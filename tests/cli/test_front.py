"""What the command answers at once, and what it says of itself."""

import ast
import configparser
import inspect
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import CONFIGS, qra
from lightning import Trainer

import qra as package
from qra import cli, tools
from qra.front import help, options, shipped
from qra.front.arguments import prepared
from qra.front.signatures import PARTS, exported, signatures, trainer
from qra.front.tool_arguments import PARSERS
from qra.version import DISTRIBUTION, extra

ROOT = CONFIGS.parent
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
AT_ONCE = ["--help", "--version", "configs", "completion bash", "completion zsh", "completion fish", "fit --help",
           "test --model.help FromCheckpoint", "study run --help", "compare --help", "help fit", "help"]  # fmt: skip
REFUSED_AT_ONCE = {
    "--versoin": "did you mean --version?",
    "help fitt": "did you mean fit?",
    "doctor --dta x": "did you mean --data?",
    "study run study/quickstart --jbs 3": "did you mean --jobs?",
}


def seconds_of_children():
    """Of the processor, for others may be at work on the machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("command", AT_ONCE)
def test_what_answers_at_once_imports_nothing_heavy(command):
    words = [sys.executable, "-X", "importtime", "-m", "qra", *command.split()]
    began = seconds_of_children()
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert seconds_of_children() - began < 5, "far from a second, on whatever machine"
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert imported.isdisjoint({"torch", "lightning", "numpy", "matplotlib", "jsonargparse", "rich"})
    assert done.stdout


@pytest.mark.parametrize("command", REFUSED_AT_ONCE)
def test_a_wrong_word_is_refused_at_once_with_the_one_that_was_meant(command):
    words = [sys.executable, "-X", "importtime", "-m", "qra", *command.split()]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert "| torch\n" not in done.stderr
    assert REFUSED_AT_ONCE[command] in done.stderr.splitlines()[-1]


def test_a_key_wins_over_a_config_of_its_whole_wherever_it_stands():
    words = prepared(["fit", "--data.root", "here", "--model.attack.eps", "4/255", "--data", "data/image_folder",
                      "--trainer.callbacks+", "callback/pwlq", "--trainer.callbacks.observe", "all",
                      "--model.attack", "attack/pgd10"])  # fmt: skip
    names = [word for word in words if word.startswith("--")]
    assert names == ["--data", "--data.root", "--model.attack", "--model.attack.eps",
                     "--trainer.callbacks+", "--trainer.callbacks.observe"]  # fmt: skip


def test_the_first_screen_fits_a_terminal_and_names_every_command():
    lines = help.screen().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert {line.split()[0] for line in lines if re.match(r"  \w+ +\w", line)} >= {*options.RUNS, *PARSERS}
    assert sum(line.startswith("  qra ") for line in lines) == 3


def test_the_first_screen_knows_the_commands_that_there_are():
    known = set(tools.TOOLS)
    assert set(help.COMMANDS) == {*options.RUNS, *known, "configs", "completion"}
    assert set(PARSERS) == {*known, "configs", "completion"}


@pytest.mark.parametrize("command", options.RUNS)
def test_the_help_of_a_command_shows_our_keys_first_and_fits_80_columns(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    output, code = qra(command, "--help")
    assert code == 0
    assert max(map(len, output.splitlines())) <= 80
    assert "torch.nn." not in output
    assert output.index("--config") < output.index("--model.network") < output.index("--trainer.max_epochs")
    assert "0.0313" not in output


@pytest.fixture(scope="module")
def parsers():
    """The real parsers, by command, taken from a command line that is refused."""
    made = {}

    class Kept(cli.QraCLI):
        def _prepare_subcommand_parser(self, klass, subcommand, **kwargs):
            made[subcommand] = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
            return made[subcommand]

    cli.quiet()
    with pytest.raises(cli.ParsingError):
        Kept(["fit", "--nonsense", *options.RUNS], ["fit"])
    return made


@pytest.mark.parametrize("command", options.RUNS)
def test_every_option_of_the_parser_is_offered_and_no_other(parsers, command):
    taken = {name for action in parsers[command]._actions for name in action.option_strings}
    whole = {name for name in taken if re.match(r"--(evaluation|trainer|examples)\.[a-z_]+$", name)}
    offered = set(options.all_options(command))
    left = {"--examples." + name for name in ("attack", "n", "seed", "shown")} if command == "fit" else set()
    assert whole - left <= offered
    plain = {name for name in offered if name.count(".") < 2 and not name.startswith(("--model.", "--data."))}
    assert plain <= taken | {"--trainer.callbacks+"}


@pytest.mark.parametrize("name", [name for part in PARTS for name in exported(part)])
def test_what_is_read_from_the_source_is_what_the_constructor_takes(name):
    signature = signatures()[name]
    module = sys.modules.get(signature.module) or getattr(package, signature.module.rpartition(".")[2])
    taken = {}
    for cls in reversed(getattr(module, name).__mro__[:-1]):
        init = cls.__dict__.get("__init__")
        if init is None or not cls.__module__.startswith("qra."):
            continue
        parameters = list(inspect.signature(init).parameters.values())[1:]
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            taken = {}
        taken |= {p.name: p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    assert {parameter.name for parameter in signature.parameters} == set(taken)


def test_the_trainers_arguments_are_those_of_lightning():
    assert {parameter.name for parameter in trainer()} == set(inspect.signature(Trainer).parameters)


def documented():
    """The options in the commands of README and docs."""
    for text in TEXTS:
        for line in re.findall(r"^\$ qra (.*)", text.read_text(), re.MULTILINE):
            words = line.partition(" #")[0].split()
            command = " ".join(words[:2]) if words[0] in ("study", "deploy") else words[0]
            for word in words:
                if word.startswith("--"):
                    yield command, word


def test_completion_knows_every_option_of_readme_and_docs():
    used = set(documented())
    assert len(used) > 30
    unknown = {(command, word) for command, word in used if word.rstrip("+") not in options.all_options(command)
               and word not in options.all_options(command)}  # fmt: skip
    assert unknown <= {("predict", "--examples.attack.share")}, "which is of an attack that the guide writes"


def test_readme_docs_and_configs_spell_keys_in_one_way():
    for text in [*TEXTS, *CONFIGS.rglob("*.yaml")]:
        assert not re.findall(r"--[\w.]*\.init_args\S*", text.read_text()), text


@pytest.mark.parametrize(("words", "expected"), [
    ("qra te", ["test"]),
    ("qra fit --config pipeline/quickstart-", ["pipeline/quickstart-at", "pipeline/quickstart-plain"]),
    ("qra fit --model.attack.ep", ["--model.attack.eps"]),
    ("qra test --trainer.callbacks+ callback/ma", ["callback/masking"]),
    ("qra study r", ["run"]),
    ("qra study run study/quick", ["study/quickstart"]),
    ("qra study run study/quickstart --jo", ["--jobs"]),
    ("qra compare --tr", ["--transfer"]),
    ("qra completion f", ["fish"]),
    ("qra report --bu", ["--budget-kib"]),
    ("qra fit --model.init_from own", []),
])  # fmt: skip
def test_bash_completes(words, expected, tmp_path):
    script, _ = qra("completion", "bash")
    Path("qra.bash").write_text(script)
    typed = words.split(" ")
    place = f"COMP_WORDS=({' '.join(typed)}); COMP_CWORD={len(typed) - 1}"
    probe = f"source qra.bash; {place}; _qra; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish")
@pytest.mark.parametrize(("words", "expected"), [
    ("qra test --evaluation.n", {"--evaluation.n"}),
    ("qra deploy test --evaluation.n", set()),
    ("qra deploy test --quer", {"--queries"}),
])  # fmt: skip
def test_fish_offers_the_options_of_the_command_that_is_typed(words, expected):
    script, _ = qra("completion", "fish")
    Path("qra.fish").write_text(script)
    probe = ["fish", "--no-config", "-c", f"source qra.fish; complete -C '{words}'"]
    done = subprocess.run(probe, capture_output=True, text=True, check=True)
    assert {line.split("\t")[0] for line in done.stdout.splitlines()} == expected


def test_the_hint_for_a_key_of_another_class_is_an_option_that_gives_help():
    assert "qra test --trainer.callbacks.help CLASS" in options.advice("--trainer.callbacks.queries", "test")
    assert "qra fit --model.help CLASS" in options.advice("--model.attack.eps", "fit")


def test_the_name_of_an_extra_is_that_of_the_distribution():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = set(setup["options.extras_require"])
    assert setup["metadata"]["name"] == DISTRIBUTION != "qra"
    sources = [*TEXTS, *(ROOT / "qra").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]
    named = [(name, kind) for text in sources for name, kind in re.findall(r"([\w-]+)\[(\w+)\]'", text.read_text())
             if name in ("qra", DISTRIBUTION)]  # fmt: skip
    assert named
    assert all(name == DISTRIBUTION and kind in extras for name, kind in named)
    calls = [ast.literal_eval(word) for file in (ROOT / "qra").rglob("*.py")
             for word in re.findall(r"extra\((['\"]\w+['\"])\)", file.read_text())]  # fmt: skip
    assert calls
    assert set(calls) <= extras
    assert extra(calls[0]) == f"pip install '{DISTRIBUTION}[{calls[0]}]'"


def test_every_config_begins_with_what_it_is():
    for name, file in shipped.configs().items():
        assert shipped.first_comment(file), name
    output, code = qra("configs", "attack")
    assert code == 0
    assert "attack/pgd10" in output
    assert "pipeline/" not in output


@pytest.mark.parametrize(
    ("streams", "code", "said"),
    [
        (">&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        (">/dev/full", 2, "qra: error: no space left on the disk: make room and run again\n"),
    ],
)
def test_no_stream_is_needed_and_a_full_one_is_one_line(streams, code, said):
    ended = subprocess.run(f"{sys.executable} -m qra --version {streams}", shell=True, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (code, said)


def test_a_working_directory_that_is_gone_is_one_line(tmp_path):
    leave = f'rmdir "{tmp_path}/gone" && {sys.executable} -m qra doctor'
    (tmp_path / "gone").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    ended = subprocess.run(leave, shell=True, capture_output=True, text=True, cwd=tmp_path / "gone", env=environment)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "the working directory no longer exists" in ended.stderr


def test_the_version_is_one():
    assert package.__version__ in qra("--version")[0]


@pytest.mark.slow
def test_help_on_a_class_of_ones_own_lists_no_library():
    Path("own_training.py").write_text(
        "from torch import nn\nfrom qra.modules import VanillaTraining\n\n\nclass Own(VanillaTraining):\n"
        '    """Own.\n\n    Args:\n        network: A network.\n        gain: A gain.\n    """\n\n'
        "    def __init__(self, network: nn.Module, gain: float = 1.0) -> None:\n        super().__init__(network)\n"
    )
    command = [sys.executable, "-m", "qra", "fit", "--model.help", "own_training.Own"]  # free of other tests' classes
    environment = {**os.environ, "PYTHONPATH": f".{os.pathsep}{ROOT}"}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert "A gain." in output
    assert len(output.splitlines()) < 30
    assert "torch.nn." not in output


@pytest.mark.parametrize(
    ("command", "words", "defaults"),
    [
        ("compare", [], ("[8/255]", "[500]")),
        ("export", [], ("[32]", "[both]")),
        ("deploy", ["bench"], ("[onnxruntime,openvino]", "[1,32]", "[15]")),
    ],
)
def test_help_says_defaults_as_they_would_be_typed(command, words, defaults, capsys):
    with pytest.raises(SystemExit):
        PARSERS[command]().parse_args([*words, "--help"])
    printed = capsys.readouterr().out
    assert all(default in printed for default in defaults), printed
