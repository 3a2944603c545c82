"""The evaluation protocol: how examples are attacked and which outcomes result, for every attack alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from qra.attacks import Attack
from qra.attacks.pixels import PixelType, on_bytes
from qra.checks import check_in
from qra.describe import class_path, kept_arguments, unrecorded
from qra.evaluation.measured import ThreatModel
from qra.evaluation.outcome import Outcome
from qra.evaluation.robustness import Watch, attack_examples, members
from qra.precision import Precision, suffix
from qra.quant import FrozenNetwork, GradientMode, freeze, gradient_mode, unrounded
from qra.quant.unrounded import check_unrounded
from qra.types import Batch, format_pixels


class Source(NamedTuple):
    """The checkpoint of another network, on which adversarial images are made."""

    path: str
    sha256: str


Unrounded = Literal["unrounded"]
UNROUNDED: Unrounded = "unrounded"
"""Source network that is the attacked one without the rounding of activations, see :func:`qra.quant.unrounded`."""


@dataclass(frozen=True)
class Protocol:
    """An attack and everything that its outcome depends on besides the network and the data.

    Args:
        attack: The attack, whose fields ``eps`` and ``norm`` describe its ball.
        gradient: How the rounding of activations is differentiated; see :func:`qra.quant.gradient_mode`.
        source: Source network of the adversarial images, if it is not the evaluated one: a checkpoint, or ``unrounded``
            for the evaluated network without the rounding of activations, each iterate on which is tried on the
            evaluated network.
        pixels: Pixels that the network receives. With ``bytes``, an L-inf radius is rounded down to whole levels.
        search_precision: Precision of the attack's computations. An image found counts only if the network itself is
            wrong in float32, so a less precise search can only miss images.

    Raises:
        ValueError: If the attack does not describe its ball or its settings, is targeted, or has a ball too small for
            bytes; if the source is ``unrounded`` and ``gradient`` is not ``ste``.
    """

    attack: Attack
    gradient: GradientMode = "ste"
    source: Source | Unrounded | None = None
    pixels: PixelType = "float"
    search_precision: Precision = "float32"

    def __post_init__(self) -> None:
        name = type(self.attack).__name__
        if not isinstance(getattr(self.attack, "eps", None), int | float):
            raise ValueError(
                f"{name} does not define its ball: give it a field eps, in pixel units, and norm if not linf"
            )
        check_in(f"eps of {name}", self.eps, "[0, inf)")
        if self.attack.norm not in ("linf", "l2"):
            raise ValueError(f"{name} has the norm {self.attack.norm!r}: evaluations support linf and l2")
        if self.attack.aim == "targets":
            raise ValueError(f"{name} is targeted: evaluations support only untargeted attacks")
        try:
            kept = kept_arguments(self.attack)
        except ValueError as reason:
            raise ValueError(f"{name}: {reason}") from None
        if names := unrecorded(type(self.attack), kept):
            raise ValueError(
                f"{name} takes {names[0]}, which results cannot record: store it as an attribute of that name"
            )
        if self.source == UNROUNDED and self.gradient != "ste":
            raise ValueError(f"source is unrounded, which has no rounding to differentiate: leave out {self.gradient}")
        if self.pixels == "bytes":
            object.__setattr__(self, "attack", on_bytes(self.attack))

    @property
    def eps(self) -> float:
        """Radius of the ball, in pixel units."""
        return float(self.attack.eps)  # type: ignore[attr-defined]

    @property
    def bounds(self) -> ThreatModel:
        """Threat model of the attack."""
        return ThreatModel(self.attack.norm, self.eps, self.pixels)

    @property
    def name(self) -> str:
        """Key of the outcome."""
        bounds = ThreatModel(self.attack.norm, self.eps).key
        words = [] if self.source is None else ["unrounded" if self.source == UNROUNDED else "surrogate"]
        words += [self.gradient] if self.gradient != "ste" else []
        words += [self.pixels] if self.pixels != "float" else []
        return "_".join([self.attack.key, bounds, *words]) + suffix(self.search_precision)

    @property
    def words(self) -> str:
        """Display name of the whole protocol."""
        source = f"made on {self.source.path}" if isinstance(self.source, Source) else self.source
        gradient = "" if self.gradient == "ste" else self.gradient
        return ", ".join(filter(None, (self.attack.title, self.bounds.title, gradient, source)))

    def fields(self) -> dict[str, Any]:
        """Return the fields of an :class:`Outcome` that the protocol determines."""
        differs = self.source is None or self.gradient != "ste"
        published = self.search_precision == "float32" and self.pixels == "float" and self.source is None
        return {
            "eps": self.eps,
            "norm": self.attack.norm,
            "pixels": self.pixels,
            "gradient": self.gradient if differs and self.attack.takes_gradients else "",
            "source": self._origin(),
            "search_precision": self.search_precision,
            "standard": self.attack.standard if published and self.gradient == "ste" else "",
        }

    def _origin(self) -> dict[str, str]:
        if isinstance(self.source, Source):
            return self.source._asdict()
        return {} if self.source is None else {"name": self.source}

    def settings(self) -> dict[str, Any]:
        """Return a description of the attack, ready for JSON."""
        return {"class_path": class_path(type(self.attack)), "init_args": kept_arguments(self.attack)}

    def prefixes(self) -> list[Protocol]:
        """Return the same protocol with each of the attack's prefixes, see :meth:`qra.attacks.Attack.prefixes`.

        Members after a prefix run on its survivors only, so its result is the same as if it were run alone.
        """
        return [replace(self, attack=attack) for attack in self.attack.prefixes()]

    def check(self, network: nn.Module) -> None:
        """Check that the attack can search on the evaluated network.

        Raises:
            ValueError: If the unrounded network is needed, and a quantizer does not say between which values it rounds.
        """
        if self.searches_unrounded:
            check_unrounded(network)

    def skipped(self, network: nn.Module) -> str | None:
        """Return a notice if the unrounded network is needed but would equal the network itself; else None."""
        if not self.searches_unrounded or unrounded(network) is not None:
            return None
        part = "skipped" if self.source == UNROUNDED else "not attacked a second time"
        return f"the network rounds no activations and is its own unrounded network: {part}"

    @property
    def searches_unrounded(self) -> bool:
        """Whether the attack searches on the network without the rounding of its activations."""
        return self.source == UNROUNDED or self.attack.searches_unrounded

    def search_network(self, network: nn.Module, source: nn.Module | None = None) -> FrozenNetwork:
        """Return the attack-time copy that the attack searches on.

        Args:
            network: The evaluated network, in eval mode.
            source: The network of the source checkpoint, in eval mode, if there is one.
        """
        searched = network if source is None else source
        with gradient_mode(searched, self.gradient):
            frozen = freeze(searched)
        frozen.precision = self.search_precision
        return frozen

    def attack_chunk(
        self,
        network: nn.Module,
        search: FrozenNetwork,
        batch: Batch,
        number: int,
        watch: Watch = lambda title, share, n_correct: None,
    ) -> Tensor:
        """Attack one chunk of the examples.

        Args:
            network: The evaluated network, in eval mode.
            search: Attack-time copy from :meth:`search_network`.
            batch: Float images in [0, 1], labels and data set indices; the same in each run.
            number: Number of the chunk; an attack may use different random draws in each chunk.
            watch: Progress callback, see :func:`qra.evaluation.robustness.attack_examples`.

        Returns:
            ``first_broken_by`` of :func:`qra.evaluation.robustness.attack_examples`, on the CPU.
        """
        with torch.inference_mode(False):
            source = search.unrounded() if self.source == UNROUNDED else None
            attack = self.attack.in_chunk(number)
            found = attack_examples(network, attack, batch, search, self.pixels, watch, source)
        return found.first_broken_by.cpu()

    def outcomes(self, name: str, indices: Tensor, first_broken_by: Tensor) -> Iterator[Outcome]:
        """Yield the outcomes of all chunks together.

        Args:
            name: Name of the outcome.
            indices: Positions in the test set, (n,).
            first_broken_by: Results of :meth:`attack_chunk`, (n,).

        Yields:
            First the outcomes of each of the attack's prefixes; then the outcome of the attack itself; then, for an
            attack with several members, the outcome after each further member and all before it except the last, as
            ``NAME.MEMBER``.
        """
        order = indices.argsort()
        indices, first_broken_by = indices[order], first_broken_by[order]
        steps, settings, fields = members(self.attack), self.settings(), self.fields()
        said = 0
        for prefix in self.prefixes():
            said = len(members(prefix.attack))
            yield from prefix.outcomes(prefix.name, indices, first_broken_by.clamp(max=said + 1))
        yield Outcome(name, self.attack.title, settings, indices, first_broken_by > len(steps), **fields)
        for number, (key, member) in list(enumerate(steps.items(), 1))[said:-1]:
            so_far = {**settings, "attacks": list(steps)[:number]}
            part = {**fields, "standard": "", "role": "part"}
            correct = first_broken_by > number
            yield Outcome(f"{name}.{key}", f"after {member.title}", so_far, indices, correct, **part)


def changed_radius(attack: Attack, protocol: Protocol) -> str | None:
    """Return a notice if bytes reduced the radius of an attack; else None."""
    asked = float(getattr(attack, "eps", 0.0))
    if abs(asked - protocol.eps) < 1e-6:
        return None
    return f"pixels are bytes: eps {format_pixels(asked)} is rounded down to {format_pixels(protocol.eps)}"
