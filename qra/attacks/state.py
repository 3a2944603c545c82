"""Attacks that leave an example alone once it is broken, and the state of the examples under them."""

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


class AttackState:
    """A network under attack, and which of its examples are broken already.

    An attack may search on a copy of the network that is made for gradients; what it finds there counts only if the
    network itself is wrong about it.

    Attributes:
        search: The network to search on, in eval mode.
        x: Images in [0, 1], (N, C, H, W).
        y: Labels, (N,).
        clean_logits: What the network itself says of ``x``, (N, classes).
        broken: Whether it is wrong about an example, as it is from the start or at the image that was found, (N,).
        x_adv: That image; ``x`` for the others.
        n_correct: Number of examples that are not broken.
        patience: Steps after which successes are judged.

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
        self.clean_logits = self._logits(x)
        check_classes(largest_label(y), self.clean_logits)
        self.broken = prediction(self.clean_logits) != y
        self.x_adv = x.clone()
        self.n_correct = int((~self.broken).sum())
        self.on_step = on_step if on_step is not None else lambda work: None
        self.patience = patience(x.device)
        self._successes: list[tuple[Tensor, Tensor]] = []
        self._positions = torch.empty(0, dtype=torch.int64)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.clean_logits.shape[1]

    def survivors(self) -> Tensor:
        """Positions of the examples that are not broken, ascending."""
        return (~self.broken).nonzero().squeeze(1)

    def targets(self, left: Tensor, rank: int) -> Tensor:
        """The class of a rank in the clean logits, the most likely one having rank 1, for some examples."""
        return self.clean_logits[left].sort(1).indices[:, -rank]

    def record_success(self, positions: Tensor, fooled: Tensor, x_adv: Tensor, at_once: bool = False) -> Tensor | None:
        """Remember what fooled the network that is searched on; every ``patience`` steps, :meth:`judge` it.

        Args:
            positions: Of the examples that are worked on, (M,), the same since :meth:`judge`; one may appear
                several times.
            fooled: Which of them are misclassified by it, bool (M,).
            x_adv: Their images, (M, C, H, W), which must not be written to later.
            at_once: Whether to judge each time, because the next step depends on which examples are left.

        Returns:
            Places in ``positions`` of those to go on with, ascending; None if all.
        """
        self._successes.append((fooled, x_adv))
        self._positions = positions
        return self.judge() if at_once or len(self._successes) >= self.patience else None

    def judge(self) -> Tensor | None:
        """Judge all successes since the last time on the network itself; keep the first image that breaks an example.

        Returns:
            As :meth:`record_success`.
        """
        successes, self._successes = self._successes, []
        if not successes:
            return None
        steps, rows = torch.stack([fooled for fooled, _ in successes]).nonzero().unbind(1)
        if len(rows) == 0:
            return None
        images = (
            torch.stack([x_adv for _, x_adv in successes])[steps, rows] if len(successes) > 1 else successes[0][1][rows]
        )
        places = self._positions[rows]
        logits = torch.cat([self._logits(part) for part in torch.split(images, len(self.x))])
        won = (prediction(logits) != self.y[places]).nonzero().squeeze(1)
        if len(won) == 0:
            return None
        found, order = places[won].sort(stable=True)
        is_first = torch.cat([torch.ones_like(found[:1], dtype=torch.bool), found[1:] != found[:-1]])
        won = won[order[is_first]]
        self.x_adv[places[won]] = images[won]
        self.broken[places[won]] = True
        self.n_correct = int((~self.broken).sum())
        return (~self.broken[self._positions]).nonzero().squeeze(1)

    @torch.no_grad()
    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self._parts(lambda part: (self._network(part),), x)[0]
        return logits


class EvaluationAttack(Attack):
    """An attack that drops an example from its work with the first image that breaks it.

    A subclass is a frozen dataclass that writes :meth:`run`, which judges its successes before it returns. It is
    made for evaluation: it runs in the precision of the images, whatever autocast says, and its random draws are
    those of a generator seeded anew in each call, so that they depend on the place of an example in the batch. An
    example that was not broken gets its own image back.
    """

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor, epoch: int) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            state = AttackState(model, x, y)
            self.run(state)
        return state.x_adv

    @abstractmethod
    def run(self, state: AttackState) -> None:
        """Break what is left of ``state``; its networks are in eval mode and gradients are on."""

    @abstractmethod
    def work(self, classes: int) -> float:
        """What :meth:`run` costs for an example that is not broken, in forward passes."""


def length(v: Tensor, norm: Norm) -> Tensor:
    """The norm of each example, (N, ...) to (N, 1, ...)."""
    flat = v.flatten(1)
    norms = flat.abs().amax(1) if norm == "linf" else (flat**2).sum(1).sqrt()
    return norms.view(-1, *[1] * (v.ndim - 1))


def unit(v: Tensor, norm: Norm) -> Tensor:
    """Scale each example to norm 1; zero stays zero."""
    return v / (length(v, norm) + _TINY)
