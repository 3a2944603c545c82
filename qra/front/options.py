"""All options of all commands with their descriptions: the source of help, completion and suggestions."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

from qra.front.signatures import Parameter, Signature, choices, signatures, subclasses, trainer
from qra.front.tool_arguments import PARSERS, commands_of, options_of

RUNS = ("fit", "validate", "test", "predict")
"""The commands that Lightning runs."""
DEPTH = 4
"""Depth to which keys are listed; ``model.attack.start.seed`` is just within it."""
NOT_TRAINED = "FromCheckpoint"
FOREIGN = {"Optimizer": ("lr", "momentum", "weight_decay"), "nn.Module": ("blocks", "channels", "num_classes")}
"""Common keys of arguments whose classes may come from other packages."""
METAVARS = (
    (r"Sequence\[Pixels\]", "'[PIXELS, ...]'"),
    (r"Pixels", "PIXELS"),
    (r"\bbool\b", "true|false"),
    (r"\bint\b", "N"),
    (r"\bfloat\b", "X"),
    (r"\bstr\b", "TEXT"),
)


class Option(NamedTuple):
    """An option of a command."""

    name: str
    """Name with its dashes."""
    metavar: str
    text: str
    default: str | None = None
    group: str = ""


OWN = (
    Option("--config", "CONFIG", "config of the run, by path or name (qra configs); of several, a later one wins"),
    Option("--run", "DIR", "where everything is written; runs/NAME for a config NAME if not given"),
    Option("--ckpt_path", "FILE", ""),
    Option("--weights_key", "KEY", "where in the checkpoint the weights lie, if several places fit"),
    Option("--untrained", "true|false", "measure random weights, without a checkpoint", "false"),
    Option("--dry_run", "", "say what would be done, how long that takes and where it writes, and stop"),
    Option("--seed_everything", "N", "seed of the weights that a training starts from", "0"),
    Option("--print_config", "", "print the whole config and stop"),
    Option("--help", "", "show this and stop; --model.help CLASS what a class takes"),
)
CKPT_PATH = {
    "fit": "last, or the last.ckpt of a run to resume",
    "": "the checkpoint; with a config.yaml beside it, or one of a class of qra, nothing but --data need be given",
}


def run_options(command: str) -> list[Option]:
    """Return the options of a command that Lightning runs, qra's own first, without nested keys.

    Args:
        command: One of ``fit``, ``validate``, ``test`` and ``predict``.
    """
    found = [o._replace(text=CKPT_PATH.get(command, CKPT_PATH[""])) if o.name == "--ckpt_path" else o for o in OWN]
    found = [each for each in found if each.name != "--untrained" or command != "fit"]
    found = [each for each in found if each.name != "--dry_run" or command in ("fit", "test")]
    for key, base, text in (
        ("model", "ImageClassifier", "how it is trained: a class of qra.modules or of your own"),
        ("data", "ImageDataModule", "the images: a config such as data/cifar10, or a class"),
    ):
        found.append(Option(f"--{key}", "CONFIG", text, group=key))
        found += _union(key, [each for each in subclasses(base) if command != "fit" or each.name != NOT_TRAINED], key)
    for key, name in (("evaluation", "RobustnessEvaluation"), ("examples", "AdversarialExamples")):
        if command == "fit" and key == "examples":
            continue
        found += [option(key, parameter, key) for parameter in signatures()[name].parameters]
    found.append(Option("--trainer.callbacks+", "CONFIG", "one evaluation more: callback/autoattack", group="trainer"))
    return found + [option("trainer", parameter, "trainer") for parameter in trainer()]


def _union(key: str, classes: list[Signature], group: str) -> list[Option]:
    """Return the options that any of some classes takes, with the classes that take each, if not all of them do."""
    taken: dict[str, Parameter] = {}
    takers: dict[str, list[str]] = {}
    for signature in classes:
        for parameter in signature.parameters:
            taken.setdefault(parameter.name, parameter)
            takers.setdefault(parameter.name, []).append(signature.name)
    common = {parameter.name for parameter in classes[0].parameters}
    options = []
    for name, parameter in taken.items():
        found = option(key, parameter, group)
        options.append(found if name in common else found._replace(text=f"{found.text} ({', '.join(takers[name])})"))
    return options


def option(key: str, parameter: Parameter, group: str = "") -> Option:
    """Return the option that sets a parameter."""
    default = None if parameter.default is None or parameter.default.startswith("_") else parameter.default
    return Option(f"--{key}.{parameter.name}", metavar(parameter), parameter.text, default, group)


def metavar(parameter: Parameter) -> str:
    """Return the placeholder for the value of a parameter in a help text."""
    if named_classes(parameter.annotation) or "nn.Module" in parameter.annotation:
        return "CONFIG"
    words = [word for name in re.findall(r"\w+", parameter.annotation) for word in choices().get(name, ())]
    if words and len("|".join(words)) < 24 and "Sequence" not in parameter.annotation:
        return "|".join(words)
    return next((short for pattern, short in METAVARS if re.search(pattern, parameter.annotation)), "VALUE")


def named_classes(annotation: str) -> list[str]:
    """Return the classes of this package that an annotation names."""
    return [word for word in re.findall(r"\w+", annotation) if word in signatures()]


@cache
def all_options(command: str) -> tuple[str, ...]:
    """Return the names of all options of a command, including nested keys such as ``--model.attack.eps``.

    Args:
        command: The command as typed, for example ``study run``.
    """
    if command in RUNS:
        names = [each.name for each in run_options(command)]
        names += [f"--model.{word}" for word in _below("ImageClassifier", DEPTH)]
        names += [f"--trainer.callbacks.{word}" for word in _of_callbacks()]
        names += [f"--examples.attack.{word}" for word in _below("Attack", DEPTH - 1)] if command != "fit" else []
        names += ["--model.help", "--data.help", "--trainer.callbacks.help", "--weights_only"]
        names += ["--verbose"] if command in ("validate", "test") else []
        names = [name for name in names if command == "fit" or name != "--model.init_from"]
        return tuple(dict.fromkeys(names))
    parser = PARSERS[command.split()[0]]()
    for word in command.split()[1:]:
        parser = commands_of(parser)[word]
    names = [name for action in options_of(parser) for name in action.option_strings if name.startswith("--")]
    if command in ("compare", "deploy test"):
        names += [each.name for each in _union("data", subclasses("ImageDataModule"), "")]
    return tuple(dict.fromkeys(names))


def _of_callbacks() -> Iterator[str]:
    for signature in signatures().values():
        if signature.module == "qra.callbacks":
            yield from _keys(signature, DEPTH)


def _below(base: str, depth: int) -> Iterator[str]:
    """Yield the keys of a class or of any that derives from it, and those below them."""
    for signature in subclasses(base):
        yield from _keys(signature, depth)


def _keys(signature: Signature, depth: int) -> Iterator[str]:
    for parameter in signature.parameters:
        yield parameter.name
        for name in named_classes(parameter.annotation) if depth > 1 else ():
            yield from (f"{parameter.name}.{word}" for word in dict.fromkeys(_below(name, depth - 1)))
        for kind, words in FOREIGN.items():
            if kind in parameter.annotation:
                yield from (f"{parameter.name}.{word}" for word in words)


@cache
def commands() -> Mapping[str, tuple[str, ...]]:
    """Return all commands, including subcommands such as those of ``qra study``, with the names of their options."""
    names = [*RUNS]
    for name, make in PARSERS.items():
        names += [f"{name} {word}" for word in commands_of(make())] or [name]
    return {name: all_options(name) for name in names}


def advice(name: str, command: str) -> str:
    """Return advice on an option that a command does not have, as the end of a sentence.

    Args:
        name: The option, as typed.
        command: The command as typed, for example ``study run``.
    """
    plain = name.replace(".init_args", "").partition("=")[0]
    whole = plain.partition(".")[0]
    own = commands().get(command, ())
    if plain in own:
        whole = "--trainer.callbacks" if plain.startswith("--trainer.") else whole
        return (
            f"no chosen class has it: qra {command} {whole}.help CLASS lists the keys of one, {whole} CLASS or "
            "a --config before it chooses one"
        )
    if whole != plain and whole in own and not any(each.startswith(f"{whole}.") for each in own):
        return f"{whole} takes one value here: qra {command} --help says which"
    others = [other for other, known in commands().items() if plain in known and not other.startswith(command)]
    if others:
        return f"it is one of qra {', '.join(others)}"
    known = [each for other, options in commands().items() if other.startswith(command) for each in options]
    known = [each for each in known if not each.endswith(".help")]
    beside = [each for each in known if each.rpartition(".")[0] == plain.rpartition(".")[0]]
    close = difflib.get_close_matches(plain, beside, 1, 0.75) or difflib.get_close_matches(plain, known, 1, 0.8)
    return f"did you mean {close[0]}?" if close else f"qra {command} --help lists the known ones"
