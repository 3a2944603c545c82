"""Reading checkpoints, which are untrusted files, and rebuilding networks from them."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qra.describe import rebuild

KEY = "qra"
"""Where a checkpoint says what it holds: ``{"network": description}``."""

_PREFIX = "network."


def read(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without running any code of it.

    Args:
        path: A file written by a run, or by ``torch.save`` with a ``state_dict`` inside.

    Raises:
        ValueError: If there is no such file, or it is cut short, holds pickled objects or has no ``state_dict``.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such checkpoint") from None
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path}: holds pickled objects (or is no checkpoint), which could run code when read: "
            "save its state_dict alone and use that"
        ) from None
    except (RuntimeError, EOFError, OSError, KeyError) as reason:
        raise ValueError(f"{path}: cannot be read, it may be cut short ({type(reason).__name__})") from None
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), Mapping):
        raise ValueError(f"{path}: is no checkpoint of a run, for it has no state_dict")
    return checkpoint


def network_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights and buffers of the network in a checkpoint, by their names inside the network."""
    return {
        name.removeprefix(_PREFIX): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(_PREFIX)
    }


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Put the weights of a checkpoint into a network of the same architecture.

    Raises:
        ValueError: If the checkpoint cannot be read, or is of another network (nothing is loaded then).
    """
    state = network_state(read(path))
    check_fit(network.state_dict(), state, path)
    network.load_state_dict(state)


def check_fit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: str | Path) -> None:
    """Compare the names and shapes of two state dicts.

    Raises:
        ValueError: With the first difference, in one line.
    """
    for name in expected:
        if name not in found:
            raise ValueError(f"{path}: is a checkpoint of another network, for it has no {name}")
        if expected[name].shape != found[name].shape:
            shapes = f"{tuple(found[name].shape)}, not {tuple(expected[name].shape)}"
            raise ValueError(f"{path}: is a checkpoint of another network, for its {name} has the shape {shapes}")
    for name in found:
        if name not in expected:
            raise ValueError(f"{path}: is a checkpoint of another network, for it has {name}, which this one lacks")


def load(path: str | Path, network: nn.Module | None = None) -> nn.Module:
    """Make a network from a checkpoint, ready to be attacked by any library.

    Args:
        path: A checkpoint of a run (``best.ckpt``, ``last.ckpt``) or a published one.
        network: The architecture; needed only if the checkpoint does not describe it or names a class from outside
            the packages that are trusted.

    Returns:
        The network in eval mode on the CPU: pixels in [0, 1], (N, C, H, W), in, logits (N, classes) out.

    Raises:
        ValueError: If the file cannot be read, its network cannot be rebuilt, or the weights do not fit it.
    """
    checkpoint = read(path)
    if network is None:
        try:
            network = rebuild(checkpoint.get(KEY, {}).get("network"))
        except ValueError as reason:
            raise ValueError(f"{path}: {reason}") from None
    state = network_state(checkpoint)
    check_fit(network.state_dict(), state, path)
    network.load_state_dict(state)
    return network.eval()


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
