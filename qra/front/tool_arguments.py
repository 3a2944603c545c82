"""Parsers of the commands that do not use Lightning's, shared by the commands, help and completion."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from qra.front.shipped import configs


class WithDefaults(argparse.HelpFormatter):
    """Help with the default of each option in brackets, as for the commands that Lightning runs."""

    def _get_help_string(self, action: argparse.Action) -> str:
        default = default_of(action)
        return f"{action.help} [{default}]" if default else action.help or ""


class OneLineArguments(argparse.ArgumentParser):
    """A parser that raises its errors, in one line, and whose help says defaults."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": WithDefaults, **kwargs})

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; {self.prog} --help shows all") from None


Parser = argparse.ArgumentParser


def study() -> Parser:
    """Return the parser of ``qra study``."""
    parser = OneLineArguments("qra study", description="Run an experiment of many runs; see docs/studies.md.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{list,status,run}")
    helps = {
        "list": "print the commands of each cell",
        "status": "print the state of each cell and the remaining time",
        "run": "run all cells that are not done",
    }
    for command, text in helps.items():
        sub = commands.add_parser(command, help=text, description=text)
        sub.add_argument("study", help="the study: a YAML file or a name such as study/quickstart")
        sub.add_argument(
            "--only", default="*", metavar="PATTERN", help="only cells with matching names, and the cells they need"
        )
        sub.add_argument("--shard", default="0/1", metavar="I/N", help="only every N-th cell, starting at I")
        sub.add_argument("--runs", default="runs", metavar="DIR", help="directory for all runs")
        sub.add_argument("--seeds", type=int, nargs="+", metavar="N", help="seeds of the study, such as 0 1 2")
        sub.add_argument(
            "--set", action="append", default=[], metavar="NAME=VALUE", help="another option for each pipeline"
        )
        if command == "list":
            sub.add_argument(
                "--claims", action="store_true", help="print which claims the study can decide, instead of commands"
            )
        if command == "run":
            sub.add_argument("--jobs", type=int, default=1, metavar="N", help="number of cells to run in parallel")
            sub.add_argument(
                "--dry_run", action="store_true", help="only check everything and print what would run, and where"
            )
            sub.add_argument("--redo", action="store_true", help="run failed cells and those of other versions again")
            sub.add_argument("--ray", metavar="ADDRESS", help="run on a Ray cluster; local starts one here")
            sub.add_argument("--gpus", type=float, metavar="SHARE", help="share of a GPU per cell on Ray")
    return parser


def report() -> Parser:
    """Return the parser of ``qra report``."""
    parser = OneLineArguments("qra report", description="Tables, figures and verdicts from the cells of a study.")
    parser.add_argument("study", type=Path, help="directory of the study, such as runs/paper")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write the report; STUDY/report if not given")
    parser.add_argument(
        "--budget-kib", type=float, metavar="KIB", help="recommend a pipeline for a model of at most this size"
    )
    return parser


def doctor() -> Parser:
    """Return the parser of ``qra doctor``."""
    parser = OneLineArguments(
        "qra doctor", description="Check the installation, the machine and the data; exit code 1 if there is a problem."
    )
    parser.add_argument(
        "--data",
        default="data",
        metavar="PATH",
        help="CIFAR-10 or -100, a tree {train,test}/CLASS/IMAGE or {train,val}/CLASS/IMAGE, or .npy and .npz files: a "
        "directory or a file",
    )
    parser.add_argument("--full", action="store_true", help="decode all images that a run would decode on demand")
    return parser


def compare() -> Parser:
    """Return the parser of ``qra compare``, whose ``--data`` serves only for help and completion."""
    parser = OneLineArguments(
        "qra compare",
        description="Compare the accuracies of runs, and the examples that each loses and gains against the first. "
        "With --transfer: try adversarial images made on each of several checkpoints on all of them.",
    )
    add_compare(parser)
    parser.add_argument(
        "--data",
        metavar="CONFIG",
        help="with --transfer, the images, such as data/cifar10; also --data.root DIR and so on",
    )
    return parser


def add_compare(parser: Parser, pixels: Callable[[str], float] = float) -> None:
    """Add the options of ``qra compare`` except ``--data``."""
    parser.add_argument("run", type=str, nargs="+", help="run directory or result.json; with --transfer, checkpoint")
    parser.add_argument("--seeds", action="store_true", help="the runs differ in their seeds: show the worst case too")
    parser.add_argument("--transfer", action="store_true", help="make a transfer matrix of checkpoints")
    parser.add_argument("--eps", type=pixels, default="8/255", metavar="PIXELS", help="with --transfer, the budget")
    parser.add_argument(
        "--steps", type=int, default=20, metavar="N", help="with --transfer, steps of PGD, each of size eps/4"
    )
    parser.add_argument(
        "--n", type=int, default=500, metavar="N", help="with --transfer, number of class-balanced test images"
    )
    parser.add_argument(
        "--out", type=str, default="transfer", metavar="DIR", help="with --transfer, directory to write to"
    )


def deploy() -> Parser:
    """Return the parser of ``qra deploy``, whose ``--data`` serves only for help and completion."""
    parser = OneLineArguments("qra deploy", description="Test an export of qra export on inference engines.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{test,bench}")
    helps = {
        "test": "compare engines with the program, attack it, and measure the deployed robustness",
        "bench": "time the export and its float network on engines",
    }
    test, bench = (commands.add_parser(name, help=text, description=text) for name, text in helps.items())
    add_deploy_test(test)
    test.add_argument(
        "--data", metavar="CONFIG", help="test images, such as data/cifar10; also --data.root DIR and so on"
    )
    add_deploy_bench(bench)
    return parser


def add_deploy_test(parser: Parser, pixels: Callable[[str], float] = float) -> None:
    """Add the options of ``qra deploy test`` except ``--data``."""
    parser.add_argument("directory", type=str, help="directory of an export")
    parser.add_argument("--ckpt_path", type=str, metavar="FILE", help="the exported checkpoint, to compare with it too")
    _add_config(parser)
    parser.add_argument("--n", type=int, default=1000, metavar="N", help="number of class-balanced test images")
    _add_engines(parser)
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of engines and of the program")
    parser.add_argument("--eps", type=pixels, default="8/255", metavar="PIXELS", help="the budget")
    stronger = parser.add_mutually_exclusive_group()
    for name, attack in (("autoattack", "AutoAttack"), ("cascade", "the rounding cascade")):
        stronger.add_argument(
            f"--{name}", action="store_true", help=f"attack the program with {attack} instead of PGD-20 (slow)"
        )
    parser.add_argument("--queries", type=int, default=1000, metavar="N", help="queries of Square on each engine")
    parser.add_argument(
        "--engine_defaults",
        type=truth,
        default=False,
        metavar="true|false",
        help="also run engines with their defaults",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="ENGINE.NAME=VALUE", help="another option for an engine"
    )


def add_deploy_bench(parser: Parser) -> None:
    """Add the options of ``qra deploy bench``."""
    parser.add_argument("directory", type=str, help="directory of an export")
    _add_engines(parser)
    for name, default, text in (("batch", "1,32", "batch sizes"), ("threads", "1", "numbers of threads")):
        parser.add_argument(f"--{name}", type=counts, default=default, metavar="LIST", help=text)
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="number of measurements of each")


def _add_config(parser: Parser) -> None:
    text = "config.yaml of its run, if its network or a quantizer is a class of your own"
    parser.add_argument("--config", type=str, metavar="FILE", help=text)


def _add_engines(parser: Parser) -> None:
    usual, text = "onnxruntime,openvino", "engines to run the model on"
    parser.add_argument("--engines", type=words, default=usual, metavar="LIST", help=text)


def words(text: str | Sequence[str]) -> list[str]:
    """Return the words of a list such as ``[a, b]`` or ``a``; a sequence is accepted as it is.

    Raises:
        ValueError: If there are none, or one occurs twice.
    """
    parts = text.strip().strip("[]").split(",") if isinstance(text, str) else text
    found = [word.strip(" '\"") for word in parts]
    if not all(found) or len(set(found)) < len(found):
        raise ValueError(f"{text!r} is not a list of different words, such as '[a, b]'")
    return found


def counts(text: str | Sequence[int]) -> list[int]:
    """Return the integers of a list such as ``[1, 32]`` or ``1``; a sequence is accepted as it is.

    Raises:
        ValueError: If there are none, one occurs twice, or one is not an integer.
    """
    try:
        return [int(word) for word in (words(text) if isinstance(text, str) else text)]
    except ValueError:
        raise ValueError(f"{text!r} is not a list of different integers, such as '[1, 32]'") from None


def truth(text: str | bool) -> bool:
    """Return the boolean that ``true`` or ``false`` stands for; a boolean is returned unchanged.

    Raises:
        ValueError: If it is neither.
    """
    if str(text).lower() not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return str(text).lower() == "true"


def export() -> Parser:
    """Return the parser of ``qra export``."""
    parser = OneLineArguments(
        "qra export", description="Export a quantized network for inference engines: ONNX models, twin and model card."
    )
    parser.add_argument("--ckpt_path", required=True, metavar="FILE", help="checkpoint of a quantized network")
    _add_config(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to write to, new or empty")
    parser.add_argument(
        "--resolution", type=resolution, default="32", metavar="N", help="rows and columns, as 32 or 96x128"
    )
    parser.add_argument(
        "--form",
        choices=("qdq", "integer", "both"),
        default="both",
        help="model.onnx, which engines are fast on; model.integer.onnx, which is exact; or both",
    )
    parser.add_argument(
        "--pwlq",
        choices=("int8", "exact"),
        default="int8",
        help="piecewise linear weights requantized to 8 bits, or as three convolutions on their own grids",
    )
    parser.add_argument("--pack", choices=("true", "false"), default="true", help="few bits for few levels in the file")
    parser.add_argument("--opset", type=int, default=21, metavar="N", help="version of ONNX's operators")
    parser.add_argument(
        "--input", choices=("bytes", "float"), default="bytes", help="uint8, or float32 in [0, 1], rounded to bytes"
    )
    return parser


def resolution(text: str) -> tuple[int, int]:
    """Return height and width given as ``32`` or ``96x128``.

    Raises:
        ValueError: If it is neither.
    """
    lengths = [int(part) for part in text.split("x")]
    if len(lengths) > 2 or min(lengths) < 1:
        raise ValueError
    return lengths[0], lengths[-1]


def configs_() -> Parser:
    """Return the parser of ``qra configs``."""
    parser = OneLineArguments("qra configs", description="List the included configs by name.")
    folders = sorted({name.partition("/")[0] for name in configs()})
    parser.add_argument("folder", nargs="?", choices=folders, metavar="FOLDER", help=f"only of {', '.join(folders)}")
    return parser


def completion() -> Parser:
    """Return the parser of ``qra completion``."""
    parser = OneLineArguments(
        "qra completion", description='Print a completion script for a shell: eval "$(qra completion bash)"'
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="bash, zsh or fish")
    return parser


PARSERS: Mapping[str, Callable[[], Parser]] = {
    "study": study,
    "report": report,
    "compare": compare,
    "deploy": deploy,
    "doctor": doctor,
    "export": export,
    "configs": configs_,
    "completion": completion,
}


def default_of(action: argparse.Action) -> str:
    """Return the default of an option as it would be typed; empty if there is none or it goes without saying."""
    unsaid = action.default in (None, False, [], argparse.SUPPRESS)
    return "" if unsaid or not action.option_strings else str(action.default)


def options_of(parser: Parser) -> list[argparse.Action]:
    """Return the options of a parser, without those of its subcommands."""
    return [action for action in parser._actions if action.option_strings]


def commands_of(parser: Parser) -> Mapping[str, Parser]:
    """Return the subcommands of a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found: Mapping[str, Parser] = action.choices
            return found
    return {}
