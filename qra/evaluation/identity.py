"""Identity of the network and the data that an outcome belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from qra.describe import architecture, contents_hash, digest, without_empty
from qra.evaluation.chunks import code_of

CALIBRATED = "calibrated"
"""Entry of ``result.json`` with the sha256 of the checkpoint in which a test saved the network that it quantized."""


def network_id(network: nn.Module, checkpoint: str | None, scheme: Any, calibration: Any, changed: bool) -> str:
    """Return a hash that two tested networks share only if they compute the same function.

    Args:
        network: The network. Its architecture is included, since a checkpoint need not describe it, and so is the code
            of classes and functions of your own in it.
        checkpoint: sha256 of the checkpoint file with the weights; None if there is none.
        scheme: Description of the quantization, ready for JSON; None for a float network.
        calibration: Everything that post-training quantization depended on, ready for JSON; None if there was none.
        changed: Whether the network was changed after loading, in a way that ``calibration`` does not describe.
    """
    contents = [contents_hash(network)] if changed or checkpoint is None else []
    code = [found] if (found := code_of(network)) else []
    return digest(without_empty([checkpoint, scheme, calibration, architecture(network), *contents, *code]))


def is_same(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether two results belong to the same network and the same data.

    Args:
        old: Content of a ``result.json``, an untrusted file. Schema 1 does not identify the network; the checkpoint and
            the quantization then decide.
        new: Content of a ``result.json`` of schema 2.
    """
    if _sha256(old, "data") != _sha256(new, "data"):
        return False
    if "network" in old:
        return is_of(old, new["network"], None if CALIBRATED in new else _sha256(new, "checkpoint"))
    checkpoint = _sha256(old, "checkpoint")
    return checkpoint is not None and _origin(old) == _origin(new)


def is_of(result: Mapping[str, Any], network: str, checkpoint: str | None) -> bool:
    """Return whether a result belongs to a network.

    Args:
        result: Content of a ``result.json`` of schema 2, an untrusted file.
        network: Id of the network, see :func:`network_id`.
        checkpoint: sha256 of a file that holds the network as it is; None if there is none. The result belongs to it,
            too, if the file was made by the test.
    """
    made = checkpoint is not None and checkpoint == _sha256(result, CALIBRATED)
    return made or bool(result.get("network") == network)


def _origin(result: Mapping[str, Any]) -> str:
    return digest(without_empty([_sha256(result, "checkpoint"), result.get("scheme"), result.get("calibration")]))


def _sha256(result: Mapping[str, Any], part: str) -> str | None:
    about = result.get(part)
    found = about.get("sha256") if isinstance(about, Mapping) else None
    return found if isinstance(found, str) else None
