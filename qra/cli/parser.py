"""The parser of the command line: no abbreviations, names from earlier versions accepted, errors raised."""

from __future__ import annotations

import os
import re
from argparse import Action
from pathlib import Path
from typing import Any, NoReturn

os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning uses old names of jsonargparse

import yaml
from jsonargparse import DefaultHelpFormatter, Namespace, get_loader, set_loader
from jsonargparse.typing import register_type
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn

from qra.front.run_config import with_absolute_paths
from qra.front.yaml_files import is_config, read_yaml
from qra.renamed import present
from qra.types import Pixels, format_pixels
from qra.writing import write_bytes

register_type(Pixels, serializer=format_pixels, deserializer=Pixels)

_load_yaml = get_loader("yaml")


class ParsingError(ValueError):
    """A command line or config cannot be parsed."""


class ShortHelp(DefaultHelpFormatter):
    """Help on a user's class without the list of the hundreds of classes that an argument could be."""

    def _expand_help(self, action: Action) -> str:
        return re.sub(r", known subclasses: [^)]*", "", super()._expand_help(action))


def _whole(kind: type[Action]) -> type[Action]:
    """Return an action in which a config of a whole object replaces everything that earlier ones said about it."""

    class Whole(kind):  # type: ignore[misc, valid-type]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            if len(args) == 4 and is_config(args[2]) and not str(args[3]).endswith("+"):
                _forget(args[1], str(args[3]).lstrip("-"), args[2])
            return super().__call__(*args, **kwargs)

    Whole.__name__ = kind.__name__
    return Whole


def _forget(config: Namespace, key: str, file: str) -> None:
    """Remove what a config says about an object if a file describes an object that replaces it."""
    content = read_yaml(file)
    if not isinstance(content, dict) or "class_path" not in content:
        return
    *above, last = key.replace(".init_args", "").split(".")
    place: Any = config
    for name in above:
        place = place.get(name) if isinstance(place, Namespace) else None
        place = place[-1] if isinstance(place, list) and place else place  # options of callbacks apply to the last one
        place = place.get("init_args", place) if isinstance(place, Namespace) else None
    if place is not None and last in place:
        del place[last]


class OneLineParser(LightningArgumentParser):
    """A parser that accepts no abbreviated names and raises its errors."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, "formatter_class": ShortHelp, **kwargs})

    def get_defaults(self, *args: Any, **kwargs: Any) -> Namespace:
        """Return the defaults; those of a default object are its class's, and not those of a class given instead."""
        found: Namespace = super().get_defaults(*args, **kwargs)
        for action in self._actions:
            if isinstance(action.default, Namespace) and "class_path" in action.default and action.dest in found:
                found[action.dest] = action.default.clone()
        return found

    def take_whole_objects(self) -> None:
        """Make a config that an option names replace what earlier configs say about its key."""
        for action in self._actions:
            if hasattr(action, "_typehint"):
                action.__class__ = _whole(type(action))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ParsingError(message) from ex


def read_present_names() -> None:
    """Make the loader translate names from earlier versions in configs and options."""
    set_loader("yaml", _present_names, (yaml.YAMLError,))


def _present_names(text: str) -> Any:
    # None: what jsonargparse makes of a null on its way to an option inside of an option
    return None if text == "None" else present(_load_yaml(text))


class RunConfigCallback(SaveConfigCallback):
    """Save the complete config, as ``config.yaml`` for ``fit`` and ``<subcommand>/config.yaml`` for the others."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        directory = Path(trainer.default_root_dir)
        target = directory / ("" if stage == "fit" else TrainerFn(stage).value) / "config.yaml"
        target.parent.mkdir(parents=True, exist_ok=True)
        config = self.config.clone()
        config.run = None  # a run directory may be moved
        if stage == "fit":
            config.ckpt_path = None  # another run of this config would not be a resumption
        text = self.parser.dump(with_absolute_paths(config), skip_none=False, skip_validation=True)  # validated already
        write_bytes(target, text.encode())
