"""The card of a checkpoint: the content of its file, and the results of ``qra test``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from qra import checkpoint
from qra.deploy.card import Card
from qra.describe import class_path, describe
from qra.evaluation.doubt import CHECK, doubt_of
from qra.evaluation.identity import is_of, network_id
from qra.evaluation.measured import read_measured
from qra.evaluation.outcome import read_result
from qra.evaluation.store import RESULT, read_examples
from qra.quant.cost import Cost, cost, label
from qra.quant.scheme import OFF

_SHEET = ("date", "device", "versions")


def tested(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a result that a card keeps.

    Args:
        result: Content of ``result.json``, an untrusted file.

    Returns:
        Outcomes that are not parts of others, the data, the findings about gradient masking, and the date, device and
        versions of the tests. There are no paths.

    Raises:
        ValueError: If an outcome cannot be read.
    """
    outcomes = {
        name: {key: value for key, value in summary.items() if key not in ("test", "examples")}
        for name, summary in result["outcomes"].items()
        if read_measured(name, summary).role in ("clean", "robust", "worst")
    }
    doubt = doubt_of(result).summary()
    return {
        "outcomes": outcomes,
        "data": result["data"],
        CHECK: {"verdict": doubt.pop("state"), **doubt},
        "tests": [{key: test.get(key) for key in _SHEET} for test in result.get("tests") or [result]],
    }


def card_of_checkpoint(network: nn.Module, path: Path, image_shape: Sequence[int]) -> Card:
    """Return the card of a checkpoint, with the results of ``qra test`` if they are in the same directory.

    Args:
        network: The network that the card describes.
        path: The checkpoint file, untrusted.
        image_shape: Channels, height and width.

    Raises:
        ValueError: If the result is damaged.
    """
    content = checkpoint.read(path)
    scheme, described = checkpoint.rebuild_scheme(content), content.get(checkpoint.KEY) or {}
    found, sha256 = cost(network, image_shape), checkpoint.sha256(path)
    calibration = described.get("calibration")
    return Card(
        name=path.parent.name if path.stem in ("best", "last", "calibrated") else path.stem,
        label="float" if scheme is None else label(scheme, found),
        network=describe(network) or {"class_path": class_path(type(network))},
        scheme=describe(scheme),
        checkpoint={"file": path.name, "sha256": sha256},
        image_shape=list(image_shape),
        parameters=found.parameters,
        multiply_adds=_multiply_adds(found),
        training={**_epochs(content), **_calibration(calibration)},
        cost={"size_in_bits": found.size_in_bits, "bit_ops": found.bit_ops},
        tested=tested_beside(path, network_id(network, sha256, describe(scheme), calibration, False), sha256),
    )


def _multiply_adds(found: Cost) -> dict[str, int]:
    """Return the multiply-adds for one image, by the bits of inputs and weights."""
    counts = Counter[str]()
    for layer in found.layers:
        counts[f"{_bits(layer.input_bits)} x {_bits(layer.weight_bits)}"] += layer.multiply_adds
    return dict(counts)


def _bits(count: int) -> str:
    return "float32" if count == OFF else f"{count} bits"


def _epochs(content: Mapping[str, Any]) -> dict[str, int]:
    """Return how long a checkpoint was trained, if it says so."""
    epoch, steps = content.get("epoch"), content.get("global_step")
    if type(epoch) is not int or type(steps) is not int or not steps:
        return {}
    return {"epochs before these weights": epoch + 1, "steps before these weights": steps}


def _calibration(about: Any) -> dict[str, Any]:
    """Return the settings of the calibration data, on which post-training quantization depends besides the scheme."""
    settings = about.get("init_args") if isinstance(about, dict) else None
    plain = {name: value for name, value in (settings or {}).items() if isinstance(value, str | int | float)}
    return {f"calibration: {name}": value for name, value in plain.items()}


def tested_beside(path: Path, network: str, sha256: str) -> dict[str, Any] | None:
    """Return the results of ``qra test`` for a checkpoint, from the result in its directory.

    Args:
        path: Checkpoint.
        network: Id of its network, see :func:`qra.evaluation.identity.network_id`.
        sha256: Hash of the checkpoint.

    Returns:
        What the card keeps; None if there is no result, or it is of another network.

    Raises:
        ValueError: If the result is damaged.
    """
    if not (path.parent / RESULT).exists():
        return None
    result = read_result(path.parent / RESULT)
    if not is_of(result, network, sha256):
        return None
    read_examples(path.parent, result)  # raises an error if they do not match the result
    return tested(result)
