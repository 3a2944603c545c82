"""``qra export``: a quantized network as files for engines, with its twin and its card."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from qra import checkpoint, environment
from qra.deploy import card
from qra.deploy.bounds import ranges, saturates_without_vnni, shapes
from qra.deploy.checkpoint_card import card_of_checkpoint
from qra.deploy.engine import needed
from qra.deploy.lower import PiecewiseLinear, lower
from qra.deploy.ops import IMAGE, Convolution, Linear
from qra.deploy.program import Program
from qra.deploy.twin import IntegerNetwork
from qra.front.shipped import checkpoint_file
from qra.front.tool_arguments import export as arguments_of_export
from qra.parsing import network_of
from qra.quant.network import quant_layers
from qra.writing import filling, write_bytes

Forms = Literal["qdq", "integer", "both"]
IMAGES = 4
"""Number of images on which a program is compared with its network."""
TOLERANCE = 0.05
"""Largest difference of logits, relative to the largest; a single different code in a small network causes 0.01."""
_MODELS: Mapping[str, Literal["qdq", "integer"]] = {card.MODEL: "qdq", card.INTEGER: "integer"}


@dataclass(frozen=True)
class Choices:
    """Options of an export.

    Args:
        resolution: Height and width of the images, in pixels.
        form: Models to write: ``qdq``, ``integer`` or ``both``.
        pwlq: How piecewise linear weights are exported, see :func:`qra.deploy.lower.lower`.
        pack: Whether weights with few levels are stored with few bits in the file.
        opset: Version of ONNX's operators.
        input: Type of the input images: bytes, or float in [0, 1].
    """

    resolution: tuple[int, int] = (32, 32)
    form: Forms = "both"
    pwlq: PiecewiseLinear = "int8"
    pack: bool = True
    opset: int = 21
    input: Literal["bytes", "float"] = "bytes"


def export(
    path: str | Path, out: str | Path, choices: Choices = Choices(), network: nn.Module | None = None
) -> Program:
    """Write the models, the twin and the card of a checkpoint. Everything is computed before anything is written.

    Args:
        path: Checkpoint of a quantized network; an untrusted file.
        out: Directory that is new or empty.
        choices: Options of the export.
        network: The architecture, float; needed only if its class is not one that qra knows.

    Returns:
        The program.

    Raises:
        ValueError: If the network cannot be exported, the directory is not empty, or ``onnx`` is not installed.
    """
    needed("onnx", "deploy")
    from qra.deploy.onnx import to_onnx  # imports onnx

    directory = Path(out)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        kind = "not empty" if directory.is_dir() else "not a directory"
        raise ValueError(f"{directory}: is {kind}: give a new one by --out")
    network = checkpoint.load(path, network)
    try:
        if isinstance(network, IntegerNetwork):
            raise ValueError("is the twin of an export: export the checkpoint that it was made from")
        program = lower(network, choices.resolution, choices.pwlq)
        is_same = choices.pwlq == "exact" or not _has_pieces(network)
        check_agrees(network, program if is_same else lower(network, choices.resolution, "exact"))
        models = {
            name: to_onnx(program, form, choices.pack, choices.opset, choices.input).SerializeToString()
            for name, form in _MODELS.items()
            if choices.form in (form, "both")
        }
        about = _card(network, program, Path(path), choices)
    except ValueError as reason:
        raise ValueError(f"{path}: {reason}") from None
    with filling(directory) as partial:
        for name, content in models.items():
            write_bytes(partial / name, content)
        program.save(partial / card.TWIN)
        card.write(partial, about)
    return program


@torch.no_grad()
def check_agrees(network: nn.Module, program: Program) -> None:
    """Reject a program that does not compute the same function as its network, compared on a few noise images.

    Individual codes may differ, where float32 rounding meets ties.

    Args:
        network: The network, with float activations between its layers. It is put into eval mode on the CPU.
        program: What :func:`qra.deploy.lower.lower` made from it.

    Raises:
        ValueError: If the logits of most images differ, or the network's logits are not finite.
    """
    x = torch.randint(256, (IMAGES, *program.image_shape), generator=torch.Generator().manual_seed(0)) / 255
    expected, found = network.cpu().eval()(x), IntegerNetwork(program).eval()(x)
    if not expected.isfinite().all():
        raise ValueError("the network's logits are not finite: check its weights and statistics")
    apart = (expected - found).abs().amax(1) / expected.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    if not float(apart.median()) <= TOLERANCE:
        raise ValueError(
            "its integer form computes a different function than the network: logits differ by "
            f"{float(apart.median()):.1g} of the largest. A hook may change what a layer computes, "
            "or a quantizer may round to another grid than it defines"
        )


def _card(network: nn.Module, program: Program, path: Path, choices: Choices) -> card.Card:
    versions = {name: environment.versions()[name] for name in ("qra", "python", "torch")}
    return replace(
        card_of_checkpoint(network, path, program.image_shape),
        multiply_adds=multiply_adds(program),
        saturates_without_vnni=list(saturates_without_vnni(program)),
        export={
            "form": choices.form,
            "pwlq": choices.pwlq if _has_pieces(network) else None,
            "pack": choices.pack,
            "opset": choices.opset,
            "input": choices.input,
            "program": program.sha256,
            "versions": {**versions, "onnx": metadata.version("onnx")},
        },
        limits=_limits(network, program, choices),
    )


def _has_pieces(network: nn.Module) -> bool:
    """Whether any weights are a sum of several terms."""
    layers = ((layer.weight_quantizer, layer.weight) for layer in quant_layers(network).values())
    return any(quantizer is not None and len(quantizer.grid(weight).terms) > 1 for quantizer, weight in layers)


def _limits(network: nn.Module, program: Program, choices: Choices) -> list[str]:
    """Return what a user must know, one sentence each."""
    _, height, width = program.image_shape
    found = [f"Images are of {height} x {width} pixels; other sizes need another export."]
    if choices.input == "float":
        found.append("Pixels in [0, 1] are rounded to bytes inside the model.")
    if choices.form != "integer":
        found.append(
            "model.onnx makes different decisions on onnxruntime without session.disable_quant_qdq=1, and on OpenVINO "
            "without INFERENCE_PRECISION_HINT=f32 and DYNAMIC_QUANTIZATION_GROUP_SIZE=0."
        )
    if _has_pieces(network) and choices.pwlq == "int8":
        found.append(
            "Its piecewise linear weights were requantized to 8 bits, one scale for each channel: it is a different "
            "network than the checkpoint, and makes different decisions in rare cases."
        )
    return found


def multiply_adds(program: Program) -> dict[str, int]:
    """Return the multiply-adds for one image, by types of the factors, such as ``uint8 x int8``."""
    codes, places, found = ranges(program), shapes(program), Counter[str]()
    for op in program.ops:
        if isinstance(op, Convolution | Linear):
            low, high = codes[op.source]
            taken = "int8" if low < 0 else "uint8" if high <= 255 else "int32"
            image = " (the image)" if op.source == IMAGE else ""
            name = f"{taken} x {str(op.weight.dtype).removeprefix('torch.')}{image}"
            found[name] += op.weight.numel() * math.prod(places[op.name][1:])
    return dict(found)


def main(arguments: Sequence[str]) -> None:
    """Run ``qra export``."""
    given = vars(arguments_of_export().parse_args(list(arguments)))
    path, out = checkpoint_file(given.pop("ckpt_path")), Path(given.pop("out"))
    network = network_of(given.pop("config"))
    choices = Choices(**{**given, "pack": given["pack"] == "true"})
    program = export(path, out, choices, network)
    for name, about in card.files(out).items():
        print(f"{out / name}: {about['bytes']:,} bytes")
    layers = saturates_without_vnni(program)
    if layers:
        shown = ", ".join(layers[:3]) + (f" and {len(layers) - 3} more" if len(layers) > 3 else "")
        print(f"without VNNI, x86 processors may saturate sums of {shown}")
    print(f"model card: {out / card.TEXT}; next, test it on engines: qra deploy test {out} --data CONFIG")
