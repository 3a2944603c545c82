"""Argument parsing for commands with parsers of their own and test images given by ``--data``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from torch import nn

from qra.errors import one_line
from qra.front.shipped import located_after
from qra.front.usage import explained
from qra.front.yaml_files import leaves, read_yaml

os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # instantiate_classes was renamed in 4.49

if TYPE_CHECKING:
    from qra.data import ImageDataModule

ABSENT = "give the test images by --data, as for qra test: --data data/cifar10"


def parse(parser: ArgumentParser, words: Sequence[str]) -> Namespace:
    """Parse the arguments of a command.

    Args:
        parser: Parser of the command; its ``prog`` is the command's name.
        words: Arguments that follow the name.

    Raises:
        ValueError: If the arguments are wrong.
    """
    try:
        settings: Namespace = parser.instantiate_classes(parser.parse_args(located_after("--data", words)))
    except ArgumentError as reason:
        raise explained(reason, [parser.prog.removeprefix("qra "), *words]) from None
    return settings


def parse_with_images(parser: ArgumentParser, words: Sequence[str]) -> tuple[Namespace, ImageDataModule | None]:
    """Parse the arguments of a command that takes test images.

    Args:
        parser: Parser of all other arguments; its ``prog`` is the command's name.
        words: Arguments that follow the name.

    Returns:
        All settings, and the data module if ``--data`` is given, else None.

    Raises:
        ValueError: If the arguments are wrong.
    """
    names = [word.partition("=")[0] for word in words]
    keys = [name for name in names if name.startswith("--data.")]
    if keys and "--data" not in names:
        raise ValueError(f"{keys[0]} needs a data module: {ABSENT}")
    if "--data" not in names:
        return parse(parser, words), None
    from qra.data import ImageDataModule  # imports Lightning, for longer than a comparison of results takes

    parser.add_subclass_arguments(ImageDataModule, "data", required=False)
    settings = parse(parser, words)
    return settings, settings.data


def network_of(config: str | None) -> nn.Module | None:
    """Build the untrained network of a run, and import all classes that its config names, such as quantizers.

    Args:
        config: The ``config.yaml`` of a run, which, unlike a checkpoint, may name any class; None for no network.

    Raises:
        ValueError: If the config has no network, or names a class that cannot be imported or made.
    """
    if config is None:
        return None
    content, parser = read_yaml(config), ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "network")
    try:
        for key, value in leaves(content):
            if key.endswith(".class_path"):
                import_module(value.rpartition(".")[0])
        settings = parser.parse_object({"network": content["model"]["init_args"]["network"]})
    except (KeyError, TypeError):
        raise ValueError(f"{config}: has no model.network: give the config.yaml of a run") from None
    except ImportError as reason:
        raise ValueError(f"{config}: {value} cannot be imported ({reason}): is it on PYTHONPATH?") from None
    except ArgumentError as reason:
        raise ValueError(f"{config}: model.network cannot be made ({one_line(reason)})") from None
    network: nn.Module = parser.instantiate_classes(settings).network
    return network
