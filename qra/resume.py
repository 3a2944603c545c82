"""Checks that a training can be resumed from a checkpoint, made before any of it is used."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from qra.data import ImageDataModule
from qra.describe import differences
from qra.modules import ImageClassifier
from qra.running import callbacks_of
from qra.runs import completion
from qra.weights import is_plain

KEY = "training"
"""Key in a checkpoint of the settings that a resumption must agree with."""

LARGEST_STEP = 2**63
"""What loggers count steps up to."""
_OF_DATA = ("batch_size", "val_size", "fraction", "budget", "split_seed", "seed", "augment")
_OF_TRAINER = ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "limit_train_batches")
_EPOCHS = "max_epochs"
"""The one setting that may change: a training may be extended."""
_FREE = ("init_from", "channels_last", "compile")
"""Arguments of the model that do not change how a training continues."""

_MORE_STATE = ("callbacks", "optimizer_states", "lr_schedulers", "loops")
"""State that a checkpoint has in addition to weights."""


def resume_settings(config: Mapping[str, Any], data: ImageDataModule) -> dict[str, Any]:
    """Return the settings that a training depends on, ready for JSON.

    Args:
        config: The parsed command line, with ``model``, ``trainer`` and ``seed_everything``.
        data: Data module that has read its images.
    """
    init_args = {key: value for key, value in config["model"]["init_args"].items() if key not in _FREE}
    settings = {
        "seed_everything": config["seed_everything"],
        "model": {"class_path": config["model"]["class_path"], "init_args": init_args},
        "data": {name: getattr(data, name) for name in _OF_DATA} | {"sha256": data.training_hash},
        "trainer": {name: config["trainer"][name] for name in _OF_TRAINER}
        | {"precision": config["trainer"]["precision"] or "32-true"},
        _EPOCHS: config["trainer"][_EPOCHS],
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return plain


def check_resumable(
    checkpoint: Mapping[str, Any], path: str | Path, trainer: Trainer, module: ImageClassifier, settings: dict[str, Any]
) -> None:
    """Check that a training can be resumed from a checkpoint as if it had never stopped.

    Args:
        checkpoint: Content of the checkpoint.
        path: Path of the checkpoint.
        trainer: Trainer that has not started.
        module: Module with the network of the checkpoint.
        settings: Settings of this run; see :func:`resume_settings`.

    Raises:
        ValueError: If the checkpoint holds only weights or averaged ones, is damaged, belongs to a finished training or
            a later epoch than the last, or was made with other settings.
    """
    begin = f"start a new run from its weights by --model.init_args.init_from {path}"
    if not any(key in checkpoint for key in _MORE_STATE[1:3]):
        raise ValueError(f"{path}: holds only weights: resume from last.ckpt, or {begin}")
    if "current_model_state" in checkpoint and not callbacks_of(trainer, WeightAveraging):
        raise ValueError(
            f"{path}: its weights are averages: resume with the same --trainer.callbacks+ callback/weight-averaging"
        )
    done = completion.read(Path(path).parent)
    elsewhere = Path(path).parent.resolve() != Path(trainer.default_root_dir).resolve()
    if elsewhere and done is not None and done.is_over(trainer.max_epochs):
        raise ValueError(f"{path}: its training is finished: test it, or continue with a larger --trainer.max_epochs")
    epoch, asked = checkpoint.get("epoch"), trainer.max_epochs
    if isinstance(epoch, int) and asked is not None and 0 < asked <= epoch:
        raise ValueError(f"{path}: is of epoch {epoch + 1}, trainer.max_epochs is {asked}: give at least {epoch + 1}")
    damage = next(_damage(checkpoint, trainer, module), None)
    recorded = checkpoint.get(KEY)
    found = dict(recorded) if isinstance(recorded, Mapping) else {}
    epochs = found.pop(_EPOCHS, None)
    different = list(differences(found, settings, shared=True))
    if different:
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        raise ValueError(f"{path}: {different[0]}{more}: resume with the settings of config.yaml beside it, or {begin}")
    if damage is not None:
        raise ValueError(f"{path}: training cannot be resumed from it, because {damage}: {begin}")
    if epochs != settings.get(_EPOCHS, epochs) and epochs is not None and module.schedule is not None:
        print(f"the schedule of the learning rate spans {settings[_EPOCHS]} epochs from here on, and spanned {epochs}")


def _short(value: object) -> str:
    return " ".join(str(value).split())[:80]


def _damage(checkpoint: Mapping[str, Any], trainer: Trainer, module: ImageClassifier) -> Iterator[str]:
    """Yield what is missing in a checkpoint, or does not belong to this training."""
    for name in ("epoch", "global_step"):
        if type(checkpoint.get(name)) is not int or checkpoint[name] < 0:
            yield f"{name} is not a number of {name.replace('global_', '')}s"
    if not re.match(r"([2-9]|[1-9]\d)\.\d", str(checkpoint.get("pytorch-lightning_version"))):
        yield "it names no version of Lightning, or one before 2"
    if not all(isinstance(value, Tensor) for value in checkpoint["state_dict"].values()):
        yield "state_dict holds more than tensors"
    callbacks = checkpoint.get("callbacks")
    if not (isinstance(callbacks, Mapping) and all(isinstance(state, Mapping) for state in callbacks.values())):
        yield "callbacks is not a mapping of states"
    try:
        torch.Generator().set_state(checkpoint.get("rng_state"))  # type: ignore[arg-type]
    except (RuntimeError, TypeError):
        yield "rng_state is not a state of the random generator"
    yield from _missing(checkpoint.get("loops"), {"fit_loop": trainer.fit_loop.state_dict()}, "loops")
    yield from _optimizer_damage(checkpoint, module)


def _missing(found: object, expected: Any, name: str) -> Iterator[str]:
    """Yield where a tree of counters lacks an entry, or has something else in its place."""
    if isinstance(expected, Mapping):
        if not isinstance(found, Mapping):
            yield f"{name} is missing"
            return
        for key, value in expected.items():
            yield from _missing(found.get(key), value, f"{name}.{key}")
    elif type(found) is not type(expected) or (isinstance(found, int) and not 0 <= found < LARGEST_STEP):
        yield f"{name} is {_short(found)}"


def _unlike(found: Any, expected: Any, name: str) -> Iterator[str]:
    """Yield where a tree of settings has a value of another type than this training's, or a non-finite number."""
    if isinstance(expected, Mapping):
        keys = expected.keys() & found.keys() if isinstance(found, Mapping) else ()
        for key in sorted(keys, key=str):
            yield from _unlike(found[key], expected[key], f"{name}.{key}")
    elif isinstance(expected, list | tuple) and isinstance(found, list | tuple) and len(found) == len(expected):
        for theirs, ours in zip(found, expected, strict=True):
            yield from _unlike(theirs, ours, name)
    elif expected is None or isinstance(expected, bool):
        if not (found is None or isinstance(found, bool | float)):
            yield f"{name} is {_short(found)}"
    elif isinstance(expected, int | float | Tensor):
        number = found.item() if isinstance(found, Tensor) and found.numel() == 1 else found
        if not (isinstance(number, int | float) and math.isfinite(number)):
            yield f"{name} is {_short(found)}"
    elif type(found) is not type(expected):
        yield f"{name} is {_short(found)}"


def _optimizer_damage(checkpoint: Mapping[str, Any], module: ImageClassifier) -> Iterator[str]:
    states, schedules = (checkpoint.get(name) for name in ("optimizer_states", "lr_schedulers"))
    if type(module).configure_optimizers is not ImageClassifier.configure_optimizers:  # needs a trainer to run
        for name, stored in (("optimizer_states", states), ("lr_schedulers", schedules)):
            if not isinstance(stored, list) or not all(isinstance(state, Mapping) for state in stored):
                yield f"{name} is not a list of states"
        return
    state = states[0] if isinstance(states, list) and len(states) == 1 else None
    if not (isinstance(state, Mapping) and isinstance(state.get("state"), Mapping) and _has_groups(state)):
        yield "optimizer_states is not the state of one optimizer"
        return
    optimizer = module.make_optimizer(module.parameter_groups())
    remembered = _after_a_step(optimizer)  # before a schedule wraps its step method
    schedule = None if module.schedule is None else module.schedule(optimizer, 1)
    ours, theirs = optimizer.state_dict()["param_groups"], state["param_groups"]
    if [len(group["params"]) for group in ours] != [len(group["params"]) for group in theirs]:
        yield "optimizer_states is for another number of parameters"
    elif missing := [key for mine, group in zip(ours, theirs, strict=True) for key in mine if key not in group]:
        yield f"optimizer_states is from another optimizer: it has no {missing[0]}"
    else:
        yield from _unlike(theirs, ours, "optimizer_states: param_groups")
        yield from _buffer_damage(state["state"], remembered, checkpoint.get("global_step"))
    if not isinstance(schedules, list) or len(schedules) != (schedule is not None):
        yield f"lr_schedulers is not the state of {'no' if schedule is None else 'one'} schedule"
    elif schedule is not None:
        yield from _schedule_damage(schedules[0], schedule)


def _schedule_damage(found: Any, schedule: LRScheduler) -> Iterator[str]:
    expected = schedule.state_dict()
    if missing := [key for key in expected if not isinstance(found, Mapping) or key not in found]:
        yield f"lr_schedulers has no {missing[0]}"
    elif methods := [key for key in found if callable(getattr(schedule, str(key), None))]:  # loading would overwrite it
        yield f"lr_schedulers has {_short(methods[0])}, which is not part of its state"
    else:
        yield from _unlike(found, expected, "lr_schedulers")


def _has_groups(state: Mapping[Any, Any]) -> bool:
    groups = state.get("param_groups")
    return isinstance(groups, list) and all(
        isinstance(group, Mapping) and isinstance(group.get("params"), list) for group in groups
    )


def _buffer_damage(found: Mapping[Any, Any], expected: Mapping[int, Mapping[str, Any]], steps: object) -> Iterator[str]:
    """Yield where the per-parameter state of an optimizer differs in form from this one's after a step."""
    if expected and not found and steps:
        yield "optimizer_states is empty"
    for number, memory in found.items():
        of_this = expected.get(number, {})
        if not isinstance(memory, Mapping) or not of_this.keys() <= memory.keys():
            yield "optimizer_states is from another optimizer"
            return
        for name, value in of_this.items():
            theirs = memory[name]
            if not isinstance(value, Tensor):
                continue
            if getattr(theirs, "shape", None) != value.shape:
                yield f"optimizer_states: {name} of parameter {number} has another shape"
                return
            if not is_plain(theirs) or theirs.untyped_storage().nbytes() < theirs.nbytes:  # one number, many times
                yield f"optimizer_states: {name} of parameter {number} is not a plain tensor"
                return
            if theirs.is_floating_point() != value.is_floating_point() or not theirs.isfinite().all():
                yield f"optimizer_states: {name} of parameter {number} holds values that are not finite"
                return


def _after_a_step(optimizer: Optimizer) -> Mapping[int, Mapping[str, Any]]:
    """Return an optimizer's per-parameter state, by number, after a step of zero gradients on a copy of it."""
    probe = copy.deepcopy(optimizer)
    for group in probe.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    try:
        probe.step()
    except (TypeError, RuntimeError):  # for example because it needs a closure
        return {}
    state: Mapping[int, Mapping[str, Any]] = probe.state_dict()["state"]
    return state
