"""Determining a stage's kind of training from the class of its model."""

from __future__ import annotations

import dataclasses
import re
from importlib import import_module
from typing import Any, NamedTuple

from qra.coordinates import Axis
from qra.front.yaml_files import is_config, whole_config
from qra.renamed import class_path
from qra.study.stages import TRAININGS, Stage, Study, same_option

_CLASS_PATH = re.compile(r"\bclass_path['\"]?\s*:\s*['\"]?([\w.]+)")


class Kind(NamedTuple):
    """How a class trains: adversarially or not, and with a teacher or without."""

    adversarial: bool
    taught: bool

    @property
    def training(self) -> str:
        """The usual name of this kind of training."""
        return "transfer" if self.taught else "adversarial" if self.adversarial else "plain"


USUAL = {
    "qra.modules.VanillaTraining": Kind(False, False),
    "qra.modules.AdversarialTraining": Kind(True, False),
    "qra.modules.RobustTransfer": Kind(True, True),
}
"""Kinds of classes that are known without an import, which would take longer than listing a study."""


def with_kind(study: Study, stage: Stage) -> Stage:
    """Return a stage with its kind of training added if its training has a name of its own.

    Args:
        study: The study, whose options also apply to the stage.
        stage: The stage.

    Raises:
        ValueError: If the class of the model contradicts the name of the training, or several classes contradict each
            other, and the coordinates of the stage do not settle it; or if the class does not exist.
    """
    usual = stage.training in TRAININGS
    if stage.training == "none" or (Axis.TRAINING if usual else Axis.ADVERSARIAL) in stage.coordinates:
        return stage
    kinds = {path: _kind(stage, path) for path in _classes(study, stage)}
    if usual:
        for path, kind in kinds.items():
            _check_word(stage, path, kind)
        return stage
    if len({kind.adversarial for kind in kinds.values()}) > 1:
        raise ValueError(
            f"stage {stage.name}: some of {', '.join(kinds)} are adversarial and some are not: write a stage for each, "
            f"or set {Axis.ADVERSARIAL} to true or false in its coordinates, for reports"
        )
    said = str(any(kind.adversarial for kind in kinds.values())).lower()
    return dataclasses.replace(stage, coordinates={**stage.coordinates, Axis.ADVERSARIAL: said})


def _classes(study: Study, stage: Stage) -> list[str]:
    """Return the paths of the classes of a stage's models: one, or several if they are an axis."""
    options = {**study.options, **stage.options}
    axes = [values for name, values in stage.axes.items() if _is_model(name)]
    # A config as a whole is read before the options that are part of it.
    chosen = sorted(
        (value for name, value in options.items() if _is_model(name)), key=lambda value: not is_config(value)
    )
    models = axes[-1] if axes else chosen[-1:] or [whole_config(stage.pipeline).get("model")]
    return [class_path(_path(model)) for model in models]


def _is_model(option: str) -> bool:
    return same_option(option) in ("model", "model.class_path")


def _path(model: Any) -> str:
    """Return the class path of a model: from a config, its content in YAML or on a command line, or the path itself."""
    if is_config(model):
        model = whole_config(model)
    if isinstance(model, dict):
        return str(model.get("class_path"))
    inside = _CLASS_PATH.search(str(model))
    return inside[1] if inside else str(model)


def _kind(stage: Stage, path: str) -> Kind:
    if path in USUAL:
        return USUAL[path]
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module or "qra.modules"), name)
    except (ImportError, AttributeError, ValueError):
        raise ValueError(
            f"stage {stage.name}: the class of its model, {path}, does not exist, so it is unknown whether training "
            f"{stage.training!r} is adversarial"
        ) from None
    return Kind(bool(getattr(found, Axis.ADVERSARIAL, False)), hasattr(found, "learn_from"))


def _check_word(stage: Stage, path: str, kind: Kind) -> None:
    """Check that the class trains in the way that the stage's training says."""
    fits = {
        "plain": not kind.adversarial,
        "adversarial": kind.adversarial and not kind.taught,
        "transfer": kind.taught,
    }
    if not fits[stage.training]:
        under = "on adversarial examples" if kind.adversarial else "on clean images"
        by = " from a teacher" if kind.taught else ", without a teacher"
        raise ValueError(
            f"stage {stage.name}: training is {stage.training}, but {path} trains {under}{by}: write {kind.training}, "
            f"take another pipeline or model, or say by coordinates what reports shall take it for: training: "
            f"{stage.training}"
        )
