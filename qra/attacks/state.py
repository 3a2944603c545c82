"""The state of a batch under attack, which alone decides which examples are broken."""

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
"""Maps logits (N, classes) and what the attack aims at to whether each example is a success, bool (N,)."""


def patience(device: torch.device) -> int:
    """Return the number of steps between two checks of which examples are broken and can be dropped.

    On a GPU, each check synchronizes with the host and leaves the device idle afterwards. On a CPU, every dropped
    example saves time.
    """
    return 1 if device.type == "cpu" else 8


class AttackState:
    """A network under attack, a batch of examples, and which of them are already broken.

    An attack may search on an attack-time copy of the network or on another network. An image found there counts only
    if the network itself misclassifies it.

    Attributes:
        search: The network to search on, in eval mode.
        x: Images in [0, 1], (N, C, H, W).
        y: What the attack aims at, such as labels, (N,). An attack may replace it; errors are still judged by the
            original.
        index: Positions of the images in their data set, (N,).
        epoch: Epoch, which also determines random draws.
        clean_logits: Logits of the network itself on ``x``, (N, classes); missing if ``network`` is None.
        broken: Whether the network is wrong about each example, on its clean image or on one that an attack found,
            (N,).
        x_adv: The image that broke each example; for the others, the last image that an attack ended with, or ``x``.
        margin: Lowest margin of the label's logit seen for each example inside its ball, (N,); infinite if none was
            seen. Recorded only if ``network`` is given and ``y`` are (N,).
        closest: The image with that margin; ``x`` if none was seen.
        n_correct: Number of examples that are not broken.
        patience: Number of steps after which successes are judged.

    Args:
        network: The network whose errors count, in eval mode. None trusts the predictions of ``search`` and skips the
            pass on the clean images, which saves passes where both are the same network.
        x: Images in [0, 1], (N, C, H, W).
        y: What the attack aims at, such as labels, (N,).
        search: Network to search on, in eval mode; defaults to ``network``.
        index: Positions of the images in their data set, (N,); defaults to positions in the batch.
        epoch: Epoch, which also determines the random draws.
        is_fooled: Decides what counts as an error.
        received: Maps adversarial images and their clean images, both (M, C, H, W), to what the network receives, such
            as bytes. By default, it receives the images unchanged.
        on_step: Called in each iteration with the iteration's share of the attack's maximum cost, in forward passes of
            one example.

    Raises:
        ValueError: If ``network`` is given and pixels are outside [0, 1] or labels are not among its classes.
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
        """Return the positions of the examples that are not broken, in ascending order."""
        return (~self.broken).nonzero().squeeze(1)

    def received_closest(self, positions: Tensor) -> Tensor:
        """Return the images of lowest margin of some examples, as the network receives them."""
        return self._received(self.closest[positions], self.x[positions])

    def unrounded(self) -> nn.Module | None:
        """Return the searched network without the rounding of activations.

        Returns:
            The unrounded network; None if the network rounds no activations or has no method ``unrounded``.

        Raises:
            ValueError: If a quantizer does not say between which values it rounds.
        """
        make = getattr(self._copy, "unrounded", None)
        found: nn.Module | None = None if make is None else make()
        return found

    def targets(self, positions: Tensor, rank: int) -> Tensor:
        """Return the class of a given rank in the clean logits for some examples; the label always has rank 1."""
        first = self.clean_logits[positions].scatter(1, self.y[positions, None], math.inf)  # rank 1 even in a tie
        return first.sort(1).indices[:, -rank]

    @contextmanager
    def searching_on(self, network: nn.Module) -> Iterator[None]:
        """Search on another network, in eval mode, inside the block.

        Images recorded with a margin are tried on the original one.
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
        """Record images that fooled the searched network, and :meth:`judge` them every ``patience`` calls.

        Args:
            positions: Positions of the examples that are worked on, (M,), which must be the same in all calls since the
                last :meth:`judge`. A position may appear several times.
            fooled: Whether each of them is a success, bool (M,).
            x_adv: Their images, (M, C, H, W), which must not be modified in place later.
            at_once: Whether to judge in this call, because the next step depends on which examples are left.
            margin: Their margins on the searched network, (M,), given only if all images lie in their balls and each
                position appears once. The lowest margin of each example is kept.

        Returns:
            Indices into ``positions`` of the examples to continue with, ascending; None for all.
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
        """Judge all successes recorded since the last call, and keep the first image that breaks each example.

        Returns:
            Indices of the examples to continue with, see :meth:`record_success`.
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
        """Judge images regardless of the prediction of the searched network.

        Args:
            positions: Positions of their examples, (M,).
            x_adv: The images, (M, C, H, W). They become the ``x_adv`` of examples that stay correct too.

        Returns:
            Indices of the examples to continue with, see :meth:`record_success`.
        """
        self.x_adv[positions] = self._received(x_adv, self.x[positions])
        if self._keeps_closest:
            self._keep_closest(positions, x_adv, self._margin_on_copy(positions, x_adv))
        return self._book(positions, torch.arange(len(positions), device=positions.device), x_adv, trusted=False)

    def try_only(self, positions: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """Judge images without marking their examples as broken.

        Args:
            positions: Positions of their examples, (M,), with M at most N.
            x_adv: The images, (M, C, H, W).

        Returns:
            The images as the network receives them, and whether it is wrong about each, bool (M,).
        """
        images = self._received(x_adv, self.x[positions])
        return images, self._is_fooled(self._logits(images), self._goal[positions])

    def _book(self, positions: Tensor, rows: Tensor, images: Tensor, trusted: bool) -> Tensor | None:
        """Keep the first image that breaks each example; image ``i`` belongs to the example ``positions[rows[i]]``."""
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
    """Return the logit of the label ``y`` (N,) minus the largest other logit: logits (N, classes) to (N,).

    The margin is minus infinity where not all logits are finite, since such logits predict nothing.
    """
    others = logits.scatter(1, y[:, None], -math.inf).amax(1)
    return (logits.gather(1, y[:, None])[:, 0] - others).where(logits.isfinite().all(1), -math.inf)


def length(v: Tensor, norm: Norm) -> Tensor:
    """Return the norm of each example, (N, ...) to (N, 1, ...)."""
    flat = v.flatten(1)
    norms = flat.abs().amax(1) if norm == "linf" else (flat**2).sum(1).sqrt()
    return norms.view(-1, *[1] * (v.ndim - 1))


def unit(v: Tensor, norm: Norm) -> Tensor:
    """Scale each example to norm 1; zero stays zero."""
    return v / (length(v, norm) + _TINY)


def finite(gradient: Tensor) -> Tensor:
    """Replace infinite and NaN entries of a gradient by zero; a single one would leave no direction at all."""
    return gradient.nan_to_num(0.0, 0.0, 0.0)
