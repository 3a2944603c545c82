"""Which network, and which data, an outcome is of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from qra.describe import describe, digest, without_empty


def network_id(checkpoint: str | None, scheme: Any, calibration: Any, *further: Any) -> str:
    """A hash that two networks share only if they are the same function.

    Args:
        checkpoint: sha256 of the file that the weights are from; None if there is none.
        scheme: Description of the quantization, ready for JSON; None for a float network.
        calibration: What quantization after training depended on, ready for JSON; None if there was none.
        further: What else the network follows from, ready for JSON, such as its architecture or :func:`contents_hash`.
    """
    return digest(without_empty([checkpoint, scheme, calibration, *further]))


def contents_hash(network: nn.Module) -> str:
    """A hash of the weights and buffers of a network, also of those that its ``state_dict`` leaves out."""
    digest = hashlib.sha256()
    for name, value in {**network.state_dict(), **dict(network.named_buffers())}.items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tested(network: nn.Module, checkpoint: str | None, scheme: Any, calibration: Any, changed: bool) -> str:
    """The id of a network as it is tested.

    Args:
        network: The network; its architecture counts, for a checkpoint need not describe it.
        checkpoint: sha256 of the checkpoint; None if there was none.
        scheme: Description of the quantization scheme; None for a float network.
        calibration: What a quantization after training depended on; None if there was none.
        changed: Whether it was changed after it was read, in a way that ``calibration`` does not say.
    """
    contents = [contents_hash(network)] if changed or checkpoint is None else []
    return network_id(checkpoint, scheme, calibration, describe(network), *contents)


def is_same(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two results are of one network and one set of data.

    Args:
        old: Content of a ``result.json``, an untrusted file. One of schema 1 names no network; then the checkpoint and
            the quantization decide.
        new: Content of one of schema 2.
    """
    if _sha256(old, "data") != _sha256(new, "data"):
        return False
    if "network" in old:
        return bool(old["network"] == new["network"])
    checkpoint = _sha256(old, "checkpoint")
    return checkpoint is not None and _origin(old) == _origin(new)


def _origin(result: Mapping[str, Any]) -> str:
    return network_id(_sha256(result, "checkpoint"), result.get("scheme"), result.get("calibration"))


def _sha256(result: Mapping[str, Any], part: str) -> str | None:
    about = result.get(part)
    found = about.get("sha256") if isinstance(about, Mapping) else None
    return found if isinstance(found, str) else None
