"""Argument parsing for commands with parsers of their own and test images given by ``--data``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from qra.front.shipped import located_after
from qra.front.usage import explained

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
