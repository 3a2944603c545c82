"""The state of examples under attack, and the one place that judges what is broken."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from qra.attacks.inputs import check_classes, check_images, is_wrong, largest_label
from qra.parts import Parts
from qra.types import Norm

_TINY = 1e-12

IsFooled = Callable[[Tensor, Tensor], Tensor]
"""Whether logits (N, classes) are what an attack wants, given what it aims at: bool (N,)."""


def patience(device: torch.device) -> int:
    """Steps between two looks at which examples are broken, and can be dropped.

    The host would wait for a GPU at each look, and leave it without work afterwards; a CPU gains by each example less.
    """
    return 1 if device.type == "cpu" else 8


class AttackState:
    """A network under attack, and which of its examples are broken already.

    An attack may search on a copy of the network that is made for gradients, or on another network; what it finds
    there counts only if the network itself is wrong about it.

    Attributes:
        search: The network to search on, in eval mode.
        x: Images in [0, 1], (N, C, H, W).
        y: What the attack aims at: labels, (N,), or what else it asks for; errors are judged by what was given at
            first.
        index: Positions of the images in their data set, (N,).
        epoch: Chooses random draws too.
        clean_logits: What the network itself says of ``x``, (N, classes).
        broken: Whether it is wrong about an example, as it is from the start or at the image that was found, (N,).
        x_adv: Image that broke an example; for the others the last one that an attack ended with, or ``x``.
        margin: Lowest margin over its label that was seen of an example inside its ball, (N,); infinite where none was.
        closest: Image of that margin; ``x`` where none was seen.
        n_correct: Number of examples that are not broken.
        patience: Steps after which successes are judged.

    Args:
        network: The network whose errors count, in eval mode; None to take ``search`` at its word and know nothing of
            the clean images, which saves passes where the two are one.
        x: Images in [0, 1], (N, C, H, W).
        y: What the attack aims at, such as labels, (N,).
        search: Network to search on, in eval mode; ``network`` if not given.
        index: Positions of the images in their data set, (N,); positions in the batch if not given.
        epoch: Epoch, which chooses the random draws too.
        is_fooled: What counts as an error.
        received: What the network receives of adversarial images and their clean ones, both (M, C, H, W), such as
            bytes; the images themselves if not given.
        on_step: Called in each iteration with its share of the work that an attack costs at most, in forward passes of
            one example.
    """

    def __init__(
        self,
        network: nn.Module | None,
        x: Tensor,
        y: Tensor,
        search: nn.Module | None = None,
        *,
        index: Tensor | None = None,
        epoch: int = 0,
        is_fooled: IsFooled = is_wrong,
        received: Callable[[Tensor, Tensor], Tensor] | None = None,
        on_step: Callable[[float], None] | None = None,
    ) -> None:
        judge = search if network is None else network
        assert judge is not None
        self._network, self._parts, self._is_fooled, self._goal = judge, Parts(), is_fooled, y
        self._received = received if received is not None else lambda x_adv, clean: x_adv
        self.search = judge if search is None else search
        self.trusting = network is None
        self._keeps_closest = not self.trusting and y.ndim == 1
        self.x, self.y, self.epoch = x, y, epoch
        self.index = torch.arange(len(x), device=x.device) if index is None else index
        self.x_adv, self.closest = x.clone(), x.clone()
        self.margin = torch.full(x.shape[:1], math.inf, dtype=x.dtype, device=x.device)
        self._copy = self.search
        self.patience = patience(x.device)
        self.on_step = on_step if on_step is not None else lambda work: None
        self._successes: list[tuple[Tensor, Tensor]] = []
        self._positions = torch.empty(0, dtype=torch.int64)
        self.broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        if not self.trusting:
            check_images(x, y)
            self.clean_logits = self._logits(x)
            check_classes(largest_label(y), self.clean_logits)
            self.broken = is_fooled(self.clean_logits, y)
        self.n_correct = int((~self.broken).sum()) if not self.trusting else len(x)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.clean_logits.shape[1]

    def survivors(self) -> Tensor:
        """Positions of the examples that are not broken, ascending."""
        return (~self.broken).nonzero().squeeze(1)

    def received_closest(self, positions: Tensor) -> Tensor:
        """The images of lowest margin, as the network receives them, for some examples."""
        return self._received(self.closest[positions], self.x[positions])

    def unrounded(self) -> nn.Module | None:
        """What is searched on, without the rounding of activations; None if it rounds none, or does not know.

        Raises:
            ValueError: If one of its quantizers does not know.
        """
        make = getattr(self._copy, "unrounded", None)
        found: nn.Module | None = None if make is None else make()
        return found

    def targets(self, positions: Tensor, rank: int) -> Tensor:
        """The class of a rank in the clean logits, the label having rank 1, for some examples."""
        first = self.clean_logits[positions].scatter(1, self.y[positions, None], math.inf)  # also among equals
        return first.sort(1).indices[:, -rank]

    @contextmanager
    def searching_on(self, network: nn.Module) -> Iterator[None]:
        """Search on another network inside the block; images that come with a margin are then tried on the first one.

        Args:
            network: The other one, in eval mode.
        """
        self.search = network
        try:
            yield
        finally:
            self.search = self._copy

    def record_success(
        self,
        positions: Tensor,
        fooled: Tensor,
        x_adv: Tensor,
        at_once: bool = False,
        margin: Tensor | None = None,
    ) -> Tensor | None:
        """Remember what fooled the network that is searched on; from time to time, :meth:`judge` it.

        Args:
            positions: Positions of the examples that are worked on, (M,), the same since :meth:`judge`; one may appear
                several times.
            fooled: Whether each of them is a success, bool (M,).
            x_adv: Their images, (M, C, H, W), which must not be written to later.
            at_once: Whether to judge each time, because the next step depends on which examples are left.
            margin: Their margins there, (M,), if all images lie in their balls and each position appears once: the
                lowest of each example is kept.

        Returns:
            Places in ``positions`` of those to go on with, ascending; None if all.
        """
        if margin is not None and self._keeps_closest:
            if self.search is not self._copy:
                margin = self._margin_on_copy(positions, x_adv)
                fooled = margin <= 0
            self._keep_closest(positions, x_adv, margin)
        self._successes.append((fooled, x_adv))
        self._positions = positions
        return self.judge() if at_once or len(self._successes) >= self.patience else None

    def judge(self) -> Tensor | None:
        """Judge all successes since the last time, and book the first image that breaks an example.

        Returns:
            Places to go on with, see :meth:`record_success`.
        """
        found, self._successes = self._successes, []
        if not found:
            return None
        steps, rows = torch.stack([fooled for fooled, _ in found]).nonzero().unbind(1)
        if len(rows) == 0:
            return None
        images = found[0][1][rows] if len(found) == 1 else torch.stack([x_adv for _, x_adv in found])[steps, rows]
        return self._book(self._positions, rows, images, self.trusting)

    def try_out(self, positions: Tensor, x_adv: Tensor) -> Tensor | None:
        """Judge images without regard to what the network that is searched on says of them.

        Args:
            positions: Positions of their examples, (M,).
            x_adv: The images, (M, C, H, W), which examples that stay correct are left with.

        Returns:
            Places to go on with, see :meth:`record_success`.
        """
        self.x_adv[positions] = self._received(x_adv, self.x[positions])
        if self._keeps_closest:
            self._keep_closest(positions, x_adv, self._margin_on_copy(positions, x_adv))
        return self._book(positions, torch.arange(len(positions), device=positions.device), x_adv, trusted=False)

    def try_only(self, positions: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """Judge images without booking what they break.

        Args:
            positions: Positions of their examples, (M,), at most as many as there are.
            x_adv: The images, (M, C, H, W).

        Returns:
            What the network receives of them, and whether it is wrong about each, bool (M,).
        """
        images = self._received(x_adv, self.x[positions])
        return images, self._is_fooled(self._logits(images), self._goal[positions])

    def _book(self, positions: Tensor, rows: Tensor, images: Tensor, trusted: bool) -> Tensor | None:
        """Book the first of several images that breaks an example; each is of the example ``positions[row]``."""
        places = positions[rows]
        images = self._received(images, self.x[places])
        won = torch.arange(len(rows), device=rows.device)
        if not trusted:
            logits = torch.cat([self._logits(part) for part in torch.split(images, max(len(self.x), 1))])
            won = self._is_fooled(logits, self._goal[places]).nonzero().squeeze(1)
        if len(won) == 0:
            return None
        found, order = places[won].sort(stable=True)
        is_first = torch.cat([torch.ones_like(found[:1], dtype=torch.bool), found[1:] != found[:-1]])
        won = won[order[is_first]]
        self.x_adv[places[won]] = images[won]
        self.broken[places[won]] = True
        self.n_correct = int((~self.broken).sum())
        return (~self.broken[positions]).nonzero().squeeze(1)

    @torch.no_grad()
    def _margin_on_copy(self, positions: Tensor, x_adv: Tensor) -> Tensor:
        return margin_of(self._copy(x_adv), self._goal[positions])

    def _keep_closest(self, positions: Tensor, x_adv: Tensor, margin: Tensor) -> None:
        before = self.margin[positions]
        closer = margin < before
        self.margin[positions] = torch.where(closer, margin, before).to(self.margin)
        self.closest[positions] = torch.where(closer[:, None, None, None], x_adv, self.closest[positions])

    @torch.no_grad()
    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self._parts(lambda part: (self._network(part),), x)[0]
        return logits


def margin_of(logits: Tensor, y: Tensor) -> Tensor:
    """By how much the logit of the label ``y`` (N,) exceeds all others, (N, classes) to (N,).

    It is minus infinity where not all logits are finite, which predict nothing.
    """
    others = logits.scatter(1, y[:, None], -math.inf).amax(1)
    return (logits.gather(1, y[:, None])[:, 0] - others).where(logits.isfinite().all(1), -math.inf)


def length(v: Tensor, norm: Norm) -> Tensor:
    """The norm of each example, (N, ...) to (N, 1, ...)."""
    flat = v.flatten(1)
    norms = flat.abs().amax(1) if norm == "linf" else (flat**2).sum(1).sqrt()
    return norms.view(-1, *[1] * (v.ndim - 1))


def unit(v: Tensor, norm: Norm) -> Tensor:
    """Scale each example to norm 1; zero stays zero."""
    return v / (length(v, norm) + _TINY)


def finite(gradient: Tensor) -> Tensor:
    """A gradient with zeros where it is infinite or no number: a single such pixel would leave no direction at all."""
    return gradient.nan_to_num(0.0, 0.0, 0.0)
