"""Reading checkpoints, which are untrusted files, and rebuilding networks from them."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qra.describe import describe, rebuild, rebuild_as
from qra.quant import ActivationQuantizer, QuantScheme, RangeSettings, WeightQuantizer, convert
from qra.quant.layers import fake_quantizers, quantizer_keys, restart_weight_quantizers

KEY = "qra"
"""Where a checkpoint says what it holds: ``{"network": description, "scheme": description or None}``."""

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


def load_weights(network: nn.Module, path: str | Path, scheme: QuantScheme | None = None) -> bool:
    """Start a network from the weights of a checkpoint of the same architecture.

    The checkpoint may be of the float network, or of one quantized to other bit widths. What quantizers learn is taken
    over where the checkpoint has it and it means the same; else weights' steps start from the weights, and clip levels
    from where the scheme has them start.

    Args:
        network: Converted if there is a scheme.
        path: A checkpoint of a run or a published one.
        scheme: That of ``network``.

    Returns:
        Whether the checkpoint is of another scheme, so that the weights compute something else now.

    Raises:
        ValueError: If the checkpoint cannot be read, or is of another network (nothing is loaded then).
    """
    content = read(path)
    state, expected = network_state(content), network.state_dict()
    changed: bool = scheme_description(content) != describe(scheme)
    absent = set()
    for key, quantizer in quantizer_keys(network).items():
        if key not in state or (changed and quantizer.settings.state_depends_on_bits):
            absent.add(key)
            state[key] = expected[key]
    check_fit(expected, state, path)
    network.load_state_dict(state)
    restart_weight_quantizers(network, absent)
    return changed


def scheme_description(checkpoint: Mapping[str, Any]) -> Any:
    """The description of the scheme in a checkpoint; None for a float network."""
    return checkpoint.get(KEY, {}).get("scheme")


def rebuild_scheme(checkpoint: Mapping[str, Any]) -> QuantScheme | None:
    """The scheme of the network in a checkpoint; None for a float network.

    Raises:
        ValueError: If it names anything but quantizers, of the trusted packages or of modules imported before.
    """
    description = scheme_description(checkpoint)
    if description is None:
        return None
    kinds: Any = (QuantScheme, WeightQuantizer, ActivationQuantizer, RangeSettings)
    scheme = rebuild_as(kinds, description, "quantization scheme")
    if not isinstance(scheme, QuantScheme):
        raise ValueError(f"the checkpoint's quantization scheme is a {type(scheme).__name__}")
    return scheme


def check_scheme(checkpoint: Mapping[str, Any], scheme: QuantScheme | None, path: str | Path) -> None:
    """Refuse a checkpoint that another scheme was trained or calibrated with.

    Raises:
        ValueError: If the schemes differ.
    """
    found, expected = scheme_description(checkpoint), describe(scheme)
    if found == expected:
        return
    if expected is None:
        reason = "it is quantized, this network is float"
    elif found is None:
        reason = "it is float, this network is quantized"
    else:
        reason = "; ".join(differences(found, expected))
    raise ValueError(
        f"{path}: is a checkpoint of another quantization scheme ({reason}): set the model's scheme to that of the "
        "checkpoint, or train from its weights by init_from"
    )


def differences(found: Any, expected: Any, name: str = "") -> Iterator[str]:
    """Where two descriptions of objects differ, in words.

    Args:
        found: ``class_path`` and ``init_args``, or a plain value.
        expected: Likewise.
        name: Of what they describe.
    """
    if not (isinstance(found, Mapping) and isinstance(expected, Mapping)):
        if found != expected:
            yield f"{name} is {found}, not {expected}"
    elif found.get("class_path") != expected.get("class_path"):
        yield f"{name} is {found.get('class_path')}, not {expected.get('class_path')}"
    else:
        there, here = found.get("init_args") or {}, expected.get("init_args") or {}
        for key in {**there, **here}:
            yield from differences(there.get(key), here.get(key), f"{name}.{key}".lstrip("."))


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
        network: The architecture, float or converted; needed only if the checkpoint does not describe it or names a
            class from outside the packages that are trusted.

    Returns:
        The network in eval mode on the CPU: pixels in [0, 1], (N, C, H, W), in, logits (N, classes) out.

    Raises:
        ValueError: If the file cannot be read, its network cannot be rebuilt, or the weights do not fit it.
    """
    checkpoint = read(path)
    try:
        if network is None:
            network = rebuild(checkpoint.get(KEY, {}).get("network"))
        scheme = None if fake_quantizers(network) else rebuild_scheme(checkpoint)
    except ValueError as reason:
        raise ValueError(f"{path}: {reason}") from None
    if scheme is not None:
        convert(network, scheme)
    state = network_state(checkpoint)
    check_fit(network.state_dict(), state, path)
    network.load_state_dict(state)
    return network.eval()


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
