"""Attacks that leave an example alone once it is broken, and who keeps the account of that."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from qra.attacks.base import Attack, check_classes, check_images, largest_label, patience
from qra.losses import prediction
from qra.parts import Parts
from qra.types import Norm

_TINY = 1e-12


class Victim:
    """A network under attack, and which of its examples are lost already.

    An attack may search on a copy of the network that is made for gradients; what it finds there counts only if the
    network itself is wrong about it.

    Attributes:
        search: The network to search on, in eval mode.
        x: Images in [0, 1], (N, C, H, W).
        y: Labels, (N,).
        clean_logits: What the network itself says of ``x``, (N, classes).
        broken: Whether it is wrong about an example, as it is from the start or at the image that was found, (N,).
        x_adv: That image; ``x`` for the others.
        right: How many examples are not broken.
        patience: Steps after which claims are judged.

    Args:
        network: The network whose errors count, in eval mode.
        x: As above.
        y: As above.
        search: As above; ``network`` if not given.
        on_step: Called in each iteration with its share of the work that an attack costs at most, in forward passes of
            one example.
    """

    def __init__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        search: nn.Module | None = None,
        on_step: Callable[[float], None] | None = None,
    ) -> None:
        self._network, self._parts = network, Parts()
        self.search = network if search is None else search
        self.x, self.y = x, y
        check_images(x, y)
        self.clean_logits = self._judge(x)
        check_classes(largest_label(y), self.clean_logits)
        self.broken = prediction(self.clean_logits) != y
        self.x_adv = x.clone()
        self.right = int((~self.broken).sum())
        self.on_step = on_step if on_step is not None else lambda work: None
        self.patience = patience(x.device)
        self._claims: list[tuple[Tensor, Tensor]] = []
        self._claimants = torch.empty(0, dtype=torch.int64)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.clean_logits.shape[1]

    def left(self) -> Tensor:
        """Positions of the examples that are not broken, ascending."""
        return (~self.broken).nonzero().squeeze(1)

    def targets(self, left: Tensor, rank: int) -> Tensor:
        """The class of a rank in the clean logits, the most likely one having rank 1, for some examples."""
        return self.clean_logits[left].sort(1).indices[:, -rank]

    def claim(self, positions: Tensor, fooled: Tensor, x_adv: Tensor, at_once: bool = False) -> Tensor | None:
        """Remember what fooled the network that is searched on; from time to time, :meth:`settle` that.

        Args:
            positions: Of the examples that are worked on, (M,), the same since the last settlement; one may appear
                several times.
            fooled: Which of them are claimed, bool (M,).
            x_adv: Their images, (M, C, H, W), which must not be written to later.
            at_once: Settle each time, because the next step depends on which examples are left.

        Returns:
            Places in ``positions`` of those to go on with, ascending; None if all.
        """
        self._claims.append((fooled, x_adv))
        self._claimants = positions
        return self.settle() if at_once or len(self._claims) >= self.patience else None

    def settle(self) -> Tensor | None:
        """Judge all claims since the last time on the network itself, and book the first image that breaks an example.

        Returns:
            As :meth:`claim`.
        """
        claims, self._claims = self._claims, []
        if not claims:
            return None
        steps, rows = torch.stack([fooled for fooled, _ in claims]).nonzero().unbind(1)
        if len(rows) == 0:
            return None
        images = claims[0][1][rows] if len(claims) == 1 else torch.stack([x_adv for _, x_adv in claims])[steps, rows]
        places = self._claimants[rows]
        logits = torch.cat([self._judge(part) for part in torch.split(images, len(self.x))])
        won = (prediction(logits) != self.y[places]).nonzero().squeeze(1)
        if len(won) == 0:
            return None
        found, order = places[won].sort(stable=True)
        is_first = torch.cat([torch.ones_like(found[:1], dtype=torch.bool), found[1:] != found[:-1]])
        won = won[order[is_first]]
        self.x_adv[places[won]] = images[won]
        self.broken[places[won]] = True
        self.right = int((~self.broken).sum())
        return (~self.broken[self._claimants]).nonzero().squeeze(1)

    @torch.no_grad()
    def _judge(self, x: Tensor) -> Tensor:
        logits: Tensor = self._parts(lambda part: (self._network(part),), x)[0]
        return logits


class Hunt(Attack):
    """An attack that drops an example from its work with the first image that breaks it.

    A subclass is a frozen dataclass that writes :meth:`hunt`, which settles its claims before it returns. It is
    made for evaluation: it runs in the precision of the images, whatever autocast says, and its random draws are
    those of a generator seeded anew in each call, so that they depend on the place of an example in the batch. An
    example that was not broken gets its own image back.
    """

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor, epoch: int) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            victim = Victim(model, x, y)
            self.hunt(victim)
        return victim.x_adv

    @abstractmethod
    def hunt(self, victim: Victim) -> None:
        """Break what is left of ``victim``; its networks are in eval mode and gradients are on."""

    @abstractmethod
    def work(self, classes: int) -> float:
        """What :meth:`hunt` costs for an example that is not broken, in forward passes."""


def length(v: Tensor, norm: Norm) -> Tensor:
    """The norm of each example, (N, ...) to (N, 1, ...)."""
    flat = v.flatten(1)
    norms = flat.abs().amax(1) if norm == "linf" else (flat**2).sum(1).sqrt()
    return norms.view(-1, *[1] * (v.ndim - 1))


def unit(v: Tensor, norm: Norm) -> Tensor:
    """Scale each example to norm 1; zero stays zero."""
    return v / (length(v, norm) + _TINY)
