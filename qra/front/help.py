"""The help screens of ``qra``, its commands and its classes; they come from the source, without importing it."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator

from qra.front import options, shipped
from qra.front.options import Option
from qra.front.signatures import Signature, exported, first_sentence, signatures, subclasses

COMMANDS = {
    "fit": "train a network from a config",
    "test": "measure clean and robust accuracy of a checkpoint",
    "predict": "write adversarial images of a checkpoint",
    "validate": "measure a checkpoint on the validation images",
    "compare": "compare runs example by example; transfer between checkpoints",
    "study": "list | status | run: an experiment of many runs",
    "export": "export a quantized network for inference engines, with a model card",
    "deploy": "test | bench: robustness and speed of an export on engines",
    "report": "write tables, figures and verdicts of a study on one page",
    "doctor": "check the installation, the machine and the data",
    "configs": "list the included configs",
    "completion": "bash | zsh | fish: print a shell completion script",
}
SCREEN = """\
qra: what does quantization do to a neural network's adversarial robustness?

usage: qra COMMAND [OPTION VALUE ...]

{commands}

examples:
  qra study run study/quickstart       # synthetic images: minutes
  qra fit --config pipeline/float-at --data.download true
  qra test --ckpt_path runs/float-at/best.ckpt --evaluation.n 10000

qra COMMAND --help shows its options; qra --version the version and commit."""
ABOUT = {
    "fit": ("Train a network.", "qra fit --config pipeline/qat-plain --model.init_from checkpoints/float-plain"),
    "test": ("Measure clean and robust accuracy.", "qra test --ckpt_path runs/float-at/best.ckpt --evaluation.n 10000"),
    "predict": ("Write adversarial images.", "qra predict --ckpt_path runs/float-at/best.ckpt"),
    "validate": ("Measure on the validation images.", "qra validate --ckpt_path runs/float-at/best.ckpt"),
}
GROUPS = {
    "": "",
    "model": "model: --model.help lists the classes, --model.help CLASS its options",
    "data": "data: --data.help likewise",
    "evaluation": "evaluation: clean and PGD accuracy, in qra test",
    "examples": "examples: adversarial images, in qra predict",
    "trainer": "trainer: options of Lightning, common ones first",
}
USUAL = ("callbacks+", "max_epochs", "precision", "accelerator", "devices", "strategy", "limit_test_batches", "logger")
BASES = {"model": "ImageClassifier", "data": "ImageDataModule", "attack": "Attack", "val_attack": "Attack"}
"""The class described by ``--KEY.help``, where the key's annotation does not name it."""


def screen() -> str:
    """Return the screen of ``qra --help``."""
    return SCREEN.format(commands="\n".join(f"  {name:11}{text}" for name, text in COMMANDS.items()))


def configs(folder: str | None = None) -> str:
    """Return the screen of ``qra configs``: the name of each config with its first comment.

    Args:
        folder: Folder whose configs are shown; all by default.
    """
    found = [(name, file) for name, file in shipped.configs().items() if folder in (None, name.partition("/")[0])]
    width = max(len(name) for name, _ in found)
    lines = (line for name, file in found for line in _entry(name, shipped.first_comment(file), width + 4))
    return "\n".join(lines)


def command(name: str) -> str:
    """Return the help screen of a command that Lightning runs.

    Args:
        name: One of ``fit``, ``validate``, ``test`` and ``predict``.
    """
    about, example = ABOUT[name]
    lines = [f"usage: qra {name} [OPTION VALUE ...]", "", *textwrap.wrap(
        f"{about} Every config key is an option. Options override configs in whatever order, and a config given "
        "for an object replaces what earlier ones say about it. Lengths are in pixel units, such as 8/255. "
        "In YAML, the keys of a class are below its init_args.", _width()
    ), "", f"  {example}"]  # fmt: skip
    found = options.run_options(name)
    for group, title in GROUPS.items():
        inside = [option for option in found if option.group == group]
        if group == "trainer":
            inside.sort(key=_usual)
        if inside:
            lines += ["", *([title] if title else [])]
            lines += [line for option in inside for line in _option(option, brief=group == "trainer")]
    return "\n".join(lines)


def _usual(option: Option) -> int:
    key = option.name.rpartition(".")[2]
    return USUAL.index(key) if key in USUAL else len(USUAL)


def of_class(key: str, name: str | None) -> str | None:
    """Return the screen of ``--KEY.help [CLASS]``; None for a class that is not in this package.

    Args:
        key: Key without dashes, such as ``model.attack``.
        name: Class as typed, with or without its package; if None, the classes to choose from are listed.
    """
    if name is None:
        return _classes(key)
    short = name.rpartition(".")[2]
    if short not in signatures() or (name != short and not name.startswith("qra.")):
        return None
    signature = signatures()[short]
    lines = [f"{signature.module}.{short}", "", *textwrap.wrap(" ".join(signature.summary.split()), _width()), ""]
    for parameter in signature.parameters:
        option = options.option(key, parameter)
        kinds = [each.name for base in options.named_classes(parameter.annotation) for each in _choices(base)]
        text = f"{option.text} One of {', '.join(kinds)}." if len(kinds) > 1 else option.text
        lines += _option(option._replace(text=text))
    return "\n".join(lines)


def _classes(key: str) -> str | None:
    """Return the classes that a key takes, one line each."""
    last = key.rpartition(".")[2]
    named = [p.annotation for s in signatures().values() for p in s.parameters if p.name == last]
    bases = [BASES[last]] if last in BASES else [c for text in named for c in options.named_classes(text)][:1]
    if last == "callbacks":
        found = [signatures()[name] for name in exported("callbacks") if signatures()[name].parameters]
    else:
        found = [each for base in bases for each in _choices(base)]
    lines = [line for each in found for line in _entry(f"{each.module}.{each.name}", first_sentence(each.summary), 4)]
    return "\n".join(lines) if found else None


def _choices(base: str) -> list[Signature]:
    """Return the concrete classes that derive from a base, or the base itself if there are none."""
    found = {each.name: each for each in subclasses(base)[1:] if not each.is_abstract}
    return list(found.values()) or subclasses(base)


def _option(option: Option, brief: bool = False) -> Iterator[str]:
    text = first_sentence(option.text) if brief else " ".join(option.text.split())
    if option.default is not None and len(option.default) <= 60:
        text = f"{text} [{option.default}]"
    yield from _entry(f"{option.name} {option.metavar}".strip(), text, 26)


def _entry(term: str, text: str, indent: int) -> Iterator[str]:
    """Yield the lines of a term with its text beside it, or below it if the term is long."""
    text = re.sub(r":\w+:`~?([^`]*)`|``([^`]*)``", lambda match: match[1] or match[2], text)
    lines = textwrap.wrap(text, _width() - indent) or [""]
    if len(term) + 4 > indent:
        yield f"  {term}"
    else:
        yield f"{'  ' + term:{indent}}{lines.pop(0)}".rstrip()
    yield from (" " * indent + line for line in lines)


def _width() -> int:
    return max(60, min(shutil.get_terminal_size().columns, 100)) - 1
