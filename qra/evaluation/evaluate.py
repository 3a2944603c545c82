"""Evaluation of the robustness of any network on any images, in one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from qra import environment
from qra.attacks import PGD, Attack, AutoAttack, UniformStart
from qra.attacks.base import untouched
from qra.attacks.inputs import check_images
from qra.attacks.pixels import PixelType
from qra.checks import check_choice, check_count
from qra.dryrun import try_out
from qra.evaluation.chunks import shuffled
from qra.evaluation.identity import network_id
from qra.evaluation.outcome import SCHEMA, Outcome
from qra.evaluation.protocol import Protocol
from qra.evaluation.robustness import is_correct
from qra.evaluation.signs import LARGE, Signs, find_signs
from qra.evaluation.worst import worst_cases
from qra.precision import float32
from qra.quant import FrozenNetwork, GradientMode
from qra.types import Batch, Norm, Pixels
from qra.writing import write_json


@dataclass(frozen=True)
class Robustness:
    """Results of :func:`evaluate`; ``print`` shows them as a table.

    Args:
        outcomes: Results by name, ``clean`` first and the worst case over several attacks last. Further attacks with
            the same name get a numeric suffix, such as ``pgd20_8-2``. Each has ``accuracy``, ``interval`` (Wilson, 95
            %), and ``correct``, whether the network is right about each image, bool (n,).
        signs: Signs of gradient masking, under which accuracies may be overstated.
        about: Identity of the network and description of the environment, ready for JSON.
    """

    outcomes: Mapping[str, Outcome]
    signs: Signs
    about: Mapping[str, Any] = field(repr=False)

    def __getitem__(self, name: str) -> Outcome:
        return self.outcomes[name]

    @property
    def table(self) -> Table:
        """The results as a ``rich`` table for a terminal."""
        result = Table("attack")
        for name in ("bounds", "accuracy", "95% interval", "n"):
            result.add_column(name, justify="right")
        for outcome in self.outcomes.values():
            low, high = outcome.interval
            bounds = "" if outcome.role == "clean" else outcome.measured.threat_model.title
            cells = (bounds, f"{outcome.accuracy:.2%}", f"{low:.1%} - {high:.1%}", str(outcome.n))
            result.add_row(escape(outcome.measured.kind), *cells)
        return result

    def __str__(self) -> str:
        console = Console(width=100, force_jupyter=False, color_system=None)
        with console.capture() as captured:
            console.print(self.table)
            console.print(escape(self.signs.line), soft_wrap=True)
        return captured.get().rstrip()

    def summary(self) -> dict[str, Any]:
        """Return the results without their examples, ready for JSON, with the keys of a ``result.json``."""
        found = {name: outcome.summary() for name, outcome in self.outcomes.items()}
        return {"schema": SCHEMA, "outcomes": found, "signs": self.signs.summary(), **self.about}

    def write(self, path: str | Path) -> None:
        """Write :meth:`summary` as JSON, atomically."""
        write_json(Path(path), self.summary())


@torch.inference_mode(False)
def evaluate(
    network: nn.Module,
    images: Tensor,
    labels: Tensor | Sequence[int],
    attack: Literal["pgd", "autoattack"] | Attack | Sequence[Attack] = "pgd",
    *,
    eps: Pixels = 8 / 255,
    norm: Norm = "linf",
    gradient: GradientMode = "ste",
    pixels: PixelType = "float",
    chunk_size: int = 250,
    seed: int = 0,
) -> Robustness:
    """Measure the clean and robust accuracy of a network, which is left unchanged.

    Args:
        network: Network that takes pixels in [0, 1], (N, C, H, W), and returns logits. It is run in eval mode on its
            own device.
        images: Images, uint8 or floating point in [0, 1], (n, C, H, W).
        labels: Class numbers, (n,).
        attack: ``pgd`` for PGD-20 with steps of ``eps / 4``, ``autoattack`` for standard AutoAttack, or one or more
            attacks from ``qra.attacks`` or your own.
        eps: Radius of the ball of ``pgd`` and ``autoattack``, in pixel units.
        norm: Norm of the ball of ``pgd`` and ``autoattack``.
        gradient: How the rounding of activations is differentiated.
        pixels: Pixels that the network receives: ``float`` or ``bytes``.
        chunk_size: Number of images attacked together.
        seed: Seed of the order of the images, and of the random draws of ``pgd`` and ``autoattack``.

    Returns:
        The outcomes of the clean images, of every attack and of the worst case, and the signs of gradient masking.

    Raises:
        ValueError: If an argument is invalid, or images, labels, network and attack do not fit together.
    """
    x, y = _inputs(images, labels)
    check_count("chunk_size", chunk_size)
    protocols = [Protocol(each, gradient, None, pixels) for each in _attacks(attack, eps, norm, seed)]
    if not protocols:
        raise ValueError("attack is empty: name at least one")
    device = next((parameter.device for parameter in network.parameters()), x.device)
    chunks = torch.split(shuffled(torch.arange(len(x)), seed), chunk_size)

    try_out(network, x[:2].to(device), 2, exactly=False)

    def batch(indices: Tensor) -> Batch:
        return Batch(x[indices].to(device), y[indices].to(device), indices.to(device))

    with untouched(network):
        search = protocols[0].search_network(network)
        correct = torch.cat([is_correct(network, *batch(chunk)[:2]).cpu() for chunk in chunks])
        order = torch.cat(chunks).argsort()
        found = [Outcome("clean", "clean", {}, torch.arange(len(x)), correct[order])]
        for protocol in protocols:
            broken = [protocol.attack_chunk(network, search, batch(chunk), i) for i, chunk in enumerate(chunks)]
            _add(found, protocol.outcomes(protocol.name, torch.cat(chunks), torch.cat(broken)))
        found += worst_cases([each.measured for each in found], {o.name: (o.indices, o.correct) for o in found})
        first = batch(chunks[0])
        signs = find_signs(network, search, first, [*found, *_large(network, search, first, protocols)])
    with float32(device):
        about = {"network": network_id(network, None, None, None, changed=True), **environment.sheet(device)}
    return Robustness({each.name: each for each in found}, signs, about)


def _add(found: list[Outcome], outcomes: Iterable[Outcome]) -> None:
    """Append outcomes; one whose name is already taken gets a numeric suffix."""
    for outcome in outcomes:
        known = {each.name for each in found}
        names = chain([outcome.name], (f"{outcome.name}-{number}" for number in count(2)))
        found.append(replace(outcome, name=next(name for name in names if name not in known)))


def _large(network: nn.Module, search: FrozenNetwork, batch: Batch, protocols: Sequence[Protocol]) -> list[Outcome]:
    """Return the outcome of PGD on a chunk under a budget that should leave no survivors."""
    large = Protocol(PGD(LARGE, LARGE / 4, 20, early_stop=True), protocols[0].gradient)
    return list(large.outcomes(large.name, batch.indices.cpu(), large.attack_chunk(network, search, batch, 0)))


def _attacks(attack: str | Attack | Sequence[Attack], eps: float, norm: Norm, seed: int) -> list[Attack]:
    if not isinstance(attack, str):
        attacks: list[Any] = list(attack) if isinstance(attack, Sequence) else [attack]
        if wrong := [each for each in attacks if not isinstance(each, Attack)]:
            raise ValueError(f"attack is {wrong[0]!r}: give pgd, autoattack, or attacks such as PGD(8 / 255)")
        return attacks
    check_choice("attack", attack, ("pgd", "autoattack"))
    if attack == "autoattack":
        return [AutoAttack(eps, norm, seed)]
    length = Pixels(eps)
    return [PGD(length, length / 4, 20, start=UniformStart(seed), norm=norm, early_stop=True)]


def _inputs(images: Tensor, labels: Tensor | Sequence[int]) -> tuple[Tensor, Tensor]:
    """Check images and labels, and return them as float images in [0, 1] and int64 labels."""
    x, y = torch.as_tensor(images), torch.as_tensor(labels)
    if x.ndim != 4 or len(x) == 0:
        raise ValueError(f"images have the shape {tuple(x.shape)}: (n, C, H, W) with at least one image is needed")
    if y.ndim != 1 or y.is_floating_point() or len(y) != len(x):
        raise ValueError(f"labels are {y.dtype} {tuple(y.shape)}: give integers, one for each of {len(x)} images")
    if not (x.dtype == torch.uint8 or x.is_floating_point()):
        raise ValueError(f"images are {x.dtype}: uint8, or floating point in [0, 1], is needed")
    x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    check_images(x, y)
    return x, y.long()
