"""Running the real command line on little work."""

import contextlib
import io
import shutil
from pathlib import Path

from qra.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"

SYNTHETIC = ["--data", str(CONFIGS / "data/synthetic.yaml")]
SMALL_DATA = {"train_size": 80, "test_size": 40, "val_size": 20, "batch_size": 20, "calibration_size": 20}
TINY = [
    *SYNTHETIC,
    *(word for name, value in SMALL_DATA.items() for word in (f"--data.init_args.{name}", str(value))),
    "--trainer.accelerator",
    "cpu",
    "--trainer.logger",  # whose figures take longer than what is run
    "false",
    "--evaluation.n",
    "10",
    "--evaluation.steps",
    "2",
    "--evaluation.eps",
    "[0, 2/255, 8/255]",
]
LOGGED = ["--trainer.logger", "true"]
NETWORK = ["--model.init_args.network", str(Path(__file__).with_name("tiny-network.yaml"))]
TINY_FIT = [*TINY, "--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"]


def pipeline(name):
    return ["--config", str(CONFIGS / f"pipeline/{name}.yaml")]


def qra(*arguments):
    """Run one command; return what it printed and its exit code."""
    output = io.StringIO()
    code = 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
    return output.getvalue(), code


def trained(directory, *arguments):
    """A copy, outside of its run, of the best checkpoint of a plain training into ``directory / "run"``."""
    run = directory / "run"
    output, code = qra("fit", *pipeline("float-plain"), *arguments, "--run", run)
    assert code == 0, output
    return shutil.copy(run / "best.ckpt", directory / "float.ckpt")


def crashed(*arguments):
    """Run a command in which a test's own callback raises ``CrashError``."""
    output, code = qra(*arguments)
    assert code == 2, output
    assert "qra: error: CrashError" in output


def refused(*arguments):
    """Run a command that must end with one line of error; return that line without its prefix."""
    output, code = qra(*arguments)
    lines = [line for line in output.splitlines() if line.startswith("qra: error: ")]
    assert code == 2, output
    assert len(lines) == 1, output
    assert "Traceback" not in output
    return lines[0].removeprefix("qra: error: ")


def teacher(path=CONFIGS.parent / "checkpoints/float-at.ckpt"):
    """A teacher that made-up data says nothing about."""
    return ["--trainer.callbacks.teacher", str(path), "--trainer.callbacks.if_not_robust", "warn",
            "--trainer.callbacks.attack.init_args.steps", "1"]  # fmt: skip
