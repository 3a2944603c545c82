"""Resuming from a checkpoint, whose training state is not trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from qra.nesting import is_deeper

_DEPTH = 20
"""Maximum nesting depth of a callback's state."""


def prepare_resumption(content: dict[str, Any], callbacks: Iterable[Callback]) -> None:
    """Prepare the content of a checkpoint, in place, for a trainer that resumes, and restore the random generator.

    Args:
        content: Content of the checkpoint.
        callbacks: Callbacks of the run.

    Raises:
        ValueError: If the state of a callback cannot be one.
    """
    content["callbacks"] = _own_states(content.get("callbacks", {}), callbacks)
    _mark_unfinished_epoch(content["loops"])
    if "rng_state" in content:
        torch.set_rng_state(content["rng_state"])


def _mark_unfinished_epoch(loops: Any) -> None:
    """Fix the state of loops saved in the middle of an epoch, in place: Lightning would take it for a finished one.

    That happens when the last step or the time limit of a training falls within an epoch.
    """
    fit = loops["fit_loop"]
    batches, epochs = fit["epoch_loop.batch_progress"], fit["epoch_progress"]
    if batches["is_last_batch"] or not batches["current"]["processed"]:
        return
    for progress in (epochs["current"], epochs["total"]):
        progress["processed"] = progress["completed"] = progress["started"] - 1


def _own_states(states: Any, callbacks: Iterable[Callback]) -> dict[str, Any]:
    """Return those of the stored states that are of a run's callbacks, with the run's own paths in place of others."""
    if not isinstance(states, Mapping):
        raise ValueError(f"the checkpoint's callbacks are a {type(states).__name__}, not a mapping")
    keys = {callback: (callback.state_key, getattr(callback, "earlier_key", "")) for callback in callbacks}
    stored = {callback: next((key for key in own if key in states), None) for callback, own in keys.items()}
    found = {callback: states[key] for callback, key in stored.items() if key is not None}
    for callback, state in found.items():
        if not isinstance(state, Mapping) or is_deeper(state, _DEPTH):
            raise ValueError(f"the checkpoint's state of {type(callback).__name__} is not a callback state")
    return {
        callback.state_key: _own_paths(callback, state) if isinstance(callback, ModelCheckpoint) else dict(state)
        for callback, state in found.items()
    }


def _own_paths(callback: ModelCheckpoint, state: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the scores in a checkpoint callback's state, and only the paths of files that the callback itself writes."""
    kept = state.get("best_k_models")
    models = {_own(callback, path): score for path, score in kept.items()} if isinstance(kept, Mapping) else {}
    models = {path: score for path, score in models.items() if path and _is_score(score)}
    scores = {key: state[key] for key in ("current_score", "kth_value") if _is_score(state.get(key))}
    paths = {
        key: _own(callback, state.get(key)) for key in ("best_model_path", "kth_best_model_path", "last_model_path")
    }
    best = state.get("best_model_score")
    return {
        "monitor": callback.monitor,
        "dirpath": callback.dirpath,
        "best_model_score": best if paths["best_model_path"] and _is_score(best) else None,
        "best_k_models": models,
        **scores,
        **paths,
    }


def _own(callback: ModelCheckpoint, stored: Any) -> str:
    """Return the file of that name in the callback's directory if the callback may have written it, else ``""``."""
    if callback.dirpath is None or not isinstance(stored, str):
        return ""
    path = Path(callback.dirpath) / Path(stored).name
    fixed = callback.filename is not None and "{" not in callback.filename
    named = path.stem == callback.filename if fixed else path.suffix == callback.FILE_EXTENSION
    return str(path) if named and path.is_file() and not path.is_symlink() else ""


def _is_score(value: Any) -> bool:
    return isinstance(value, float | int) or (
        isinstance(value, Tensor) and value.ndim == 0 and value.dtype != torch.bool
    )
