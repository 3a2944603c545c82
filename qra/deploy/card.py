"""The card of a network: JSON with one schema and text generated from it, both written by the commands that measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qra.checkpoint import sha256
from qra.deploy import card_text
from qra.evaluation.measured import PixelContract
from qra.evaluation.robustbench import model_info
from qra.files import plain, read_json
from qra.writing import write_bytes, write_json

SCHEMA = 1
"""Version of ``card.json``; it changes when the meaning of a key changes."""
FILE, TEXT = "card.json", "README.md"
TWIN, MODEL, INTEGER = "twin.safetensors", "model.onnx", "model.integer.onnx"
"""Files of an export: the differentiable twin, the model to ship, and the model whose integers are exact."""


@dataclass(frozen=True)
class Card:
    """What users need to know about a published network, exported for engines or as a checkpoint.

    Args:
        name: Name of the network, such as that of its run.
        label: Readable form of the quantization, such as ``W4A4 (DoReFa weights, PACT activations)``.
        network: Description of the architecture; None if unknown.
        scheme: Description of the quantization scheme.
        checkpoint: Name and ``sha256`` of the checkpoint.
        image_shape: Channels, height and width.
        parameters: Number of parameters.
        multiply_adds: Multiply-adds for one image, by types of the factors, such as ``uint8 x int8`` or ``float32``.
        saturates_without_vnni: Layers whose sums may saturate on x86 processors without VNNI.
        export: Options of the export and versions of the software; empty for a checkpoint.
        training: What is known of the training; empty if nothing is.
        limits: What a user must know before relying on the network, one sentence each.
        cost: ``size_in_bits`` of all parameters at their bit widths, and ``bit_ops`` for one image.
        tested: Accuracies of the checkpoint, from ``qra test``, see :func:`qra.deploy.checkpoint_card.tested`.
        deployed: Accuracies of the deployed network, from ``qra deploy test``.
        speed: Run times of the deployed network, from ``qra deploy bench``.
    """

    name: str
    label: str
    network: Any
    scheme: Any
    checkpoint: Mapping[str, Any]
    image_shape: Sequence[int]
    parameters: int
    multiply_adds: Mapping[str, int]
    saturates_without_vnni: Sequence[str] = ()
    export: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    limits: Sequence[str] = ()
    cost: Mapping[str, int] = field(default_factory=dict)
    tested: Mapping[str, Any] | None = None
    deployed: Mapping[str, Any] | None = None
    speed: Mapping[str, Any] | None = None

    @property
    def robustbench(self) -> dict[str, Any]:
        """The fields of a RobustBench ``model_info``, with the accuracies as deployed, else of the checkpoint."""
        found = {"outcomes": {}, "data": {"class": None}, **(self.deployed or self.tested or {})}
        known = {"checkpoint": dict(self.checkpoint), "scheme": self.scheme, "cost": dict(self.cost)}
        pixels: PixelContract = "bytes" if self.deployed else "float"
        return model_info({**found, **known}, self.name, (self.network or {}).get("class_path"), pixels)

    def content(self, files: Mapping[str, Any]) -> dict[str, Any]:
        """Return the content of ``card.json``.

        Args:
            files: Size and hash of each file that the card describes, by name.
        """
        return {"schema": SCHEMA, **dataclasses.asdict(self), "files": files, "robustbench": self.robustbench}


def write(directory: Path, card: Card) -> None:
    """Write ``card.json`` and ``README.md`` of an export, with the sizes and hashes of its files."""
    content = card.content(files(directory))
    write_json(directory / FILE, content)
    write_bytes(directory / TEXT, card_text.markdown(content).encode())


def read(directory: Path) -> Card:
    """Read the card of an export, an untrusted file, and check the files beside it against their hashes.

    Raises:
        ValueError: If there is no card, it is not valid, or a file is missing or is not the one that was exported.
    """
    path = directory / FILE
    try:
        content = read_json(path, follow=False)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{directory}: is not an export: it has no {FILE}; qra export makes one") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"{path}: is not a card of schema {SCHEMA}; export the network again")
    content = {"cost": {}, "tested": None, **content}  # missing in the first cards
    _check_types(path, content)
    _check_files(directory, content["files"])
    names = {each.name for each in dataclasses.fields(Card)}
    card = Card(**{name: value for name, value in content.items() if name in names})
    try:
        card_text.markdown(card.content(content["files"]))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as reason:
        raise ValueError(f"{path}: is damaged ({type(reason).__name__}); export the network again") from None
    return card


_KINDS: Mapping[str, tuple[type, ...]] = {
    "name": (str,),
    "label": (str,),
    "network": (dict, type(None)),
    "scheme": (dict, type(None)),
    "checkpoint": (dict,),
    "image_shape": (list,),
    "parameters": (int,),
    "multiply_adds": (dict,),
    "saturates_without_vnni": (list,),
    "export": (dict,),
    "training": (dict,),
    "limits": (list,),
    "cost": (dict,),
    "tested": (dict, type(None)),
    "deployed": (dict, type(None)),
    "speed": (dict, type(None)),
    "files": (dict,),
}


def _check_types(path: Path, content: Mapping[str, Any]) -> None:
    for key, kinds in _KINDS.items():
        if not isinstance(content.get(key), kinds):
            raise ValueError(
                f"{path}: {key} has the wrong type, {type(content.get(key)).__name__}; export the network again"
            )


def files(directory: Path) -> dict[str, dict[str, Any]]:
    """Return the size and hash of each existing file of an export, by name."""
    found = (directory / name for name in (MODEL, INTEGER, TWIN))
    return {path.name: about_file(path) for path in found if path.exists()}


def about_file(path: Path) -> dict[str, Any]:
    """Return the size and hash of a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _check_files(directory: Path, stated: Mapping[str, Any]) -> None:
    present = files(directory)
    for name, about in stated.items():
        if name not in present:
            raise ValueError(f"{directory}: {plain(name)} is missing; export the network again")
        if not isinstance(about, Mapping) or present[name]["sha256"] != about.get("sha256"):
            raise ValueError(f"{directory / name}: is not the exported file (its sha256 differs); export it again")
