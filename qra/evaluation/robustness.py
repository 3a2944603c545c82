"""Robust accuracy of a network under an attack, judged by the network itself in the same way for all attacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qra.attacks import Attack, AttackState
from qra.attacks.base import untouched
from qra.attacks.pixels import OnBytes, PixelType, check_bytes, on_bytes, to_bytes
from qra.attacks.state import length
from qra.losses import prediction
from qra.parts import Parts
from qra.precision import float32
from qra.types import Batch, format_pixels

_TOLERANCE = 1e-5  # for distances in float32

Watch = Callable[[str, float, int], None]
"""Progress callback; its arguments are the title of the running attack, the share of the work that is done, and the
number of correct examples."""


@torch.no_grad()
def is_correct(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return whether a network in eval mode is correct in float32: images (N, C, H, W), labels (N,) to bool (N,)."""
    with float32(x.device):
        (logits,) = Parts()(lambda part: (network(part),), x)
    return prediction(logits) == y


class Attacked(NamedTuple):
    """Result of an attack on some examples."""

    first_broken_by: Tensor
    """Which attack broke each example first, uint8, (N,).

    0 means that the clean image is misclassified, k that the k-th member of the attack broke the example, and the
    number of members plus one that it stays correct.
    """
    x_adv: Tensor
    """For each example the image that broke it, else the last image that the attack ended with, or the clean one,
    (N, C, H, W)."""
    correct: Tensor
    """Whether the network stays correct, bool (N,)."""


def members(attack: Attack) -> dict[str, Attack]:
    """Return the members of an attack by name; an attack without members is its own only member."""
    return attack.members() or {attack.key: attack}


def attack_examples(
    network: nn.Module,
    attack: Attack,
    batch: Batch,
    search: nn.Module | None = None,
    pixels: PixelType = "float",
    watch: Watch = lambda title, share, n_correct: None,
    source: nn.Module | None = None,
) -> Attacked:
    """Attack the examples whose clean images are classified correctly.

    An image counts only if ``network`` itself misclassifies it; an example that fools only ``search`` is attacked
    further. Global random generators, train and eval modes, and gradients of parameters are left unchanged.

    Args:
        network: The network that judges, in eval mode and float32.
        attack: The attack, whose members are run in order, each on the remaining survivors.
        batch: Float images in [0, 1], labels, and data set indices, which determine the random draws.
        search: Network that the attack searches on: an attack-time copy (see ``qra.quant.freeze``), or another network
            whose adversarial images are tried on ``network``. Defaults to ``network``.
        pixels: Pixels that the network receives. With ``bytes``, images are rounded inside the searched network, with a
            straight-through estimator, and the network judges real bytes.
        watch: Progress callback, called in each iteration.
        source: Network to search on instead, if each iterate is to be tried on ``search``, whatever ``source``
            predicts.

    Raises:
        ValueError: If the attack is targeted, does not suit the network, or leaves its ball or [0, 1]; if ``pixels`` is
            ``bytes`` and the clean images are not bytes or the ball is too small for them.
    """
    x, y, indices = batch
    if attack.aim == "targets":
        raise ValueError(f"{type(attack).__name__} is targeted: evaluations support only untargeted attacks")
    search = network if search is None else search
    received = None
    if pixels == "bytes":
        check_bytes(x)
        attack, search = on_bytes(attack), OnBytes(search)
        source = None if source is None else OnBytes(source)
        received = partial(to_bytes, eps=attack.eps, norm=attack.norm)  # type: ignore[attr-defined]
    with float32(x.device), untouched(network), untouched(search):
        progress = _Progress(watch)
        state = AttackState(
            network, x.clone(), y.clone(), search, index=indices, received=received, on_step=progress.step
        )
        if (reason := attack.unsuited(state)) is not None:
            raise ValueError(reason)
        steps = members(attack)
        progress.begin(state, sum(member.work(state.classes) for member in steps.values()))
        found = torch.where(state.broken, 0, len(steps) + 1).to(torch.uint8)
        for number, member in enumerate(steps.values(), 1):
            state.y = state.clean_logits if member.aim == "logits" else y
            with progress.of(member), nullcontext() if source is None else state.searching_on(source):
                member.run(state)
            found[state.broken & (found > number)] = number
    check_ball(attack, batch, state.x_adv)
    return Attacked(found, state.x_adv, ~state.broken)


class _Progress:
    """Reports the share of the planned work that is done; work saved by examples that broke early counts as done."""

    def __init__(self, watch: Watch) -> None:
        self._watch, self._done, self._title = watch, 0.0, ""

    def begin(self, state: AttackState, total: float) -> None:
        self._state, self._total = state, max(total, 1e-9)

    @contextmanager
    def of(self, member: Attack) -> Iterator[None]:
        self._title = member.title
        planned = self._done + member.work(self._state.classes) / self._total
        yield
        self._done = planned
        self._watch(self._title, self._done, self._state.n_correct)

    def step(self, work: float) -> None:
        self._done += work / self._total
        self._watch(self._title, self._done, self._state.n_correct)


def check_ball(attack: Attack, batch: Batch, x_adv: Tensor) -> None:
    """Check that adversarial images lie in the ball of an attack and in [0, 1].

    Args:
        attack: The attack; its ball is checked if it has a field ``eps``.
        batch: The clean images.
        x_adv: The adversarial images, (N, C, H, W).

    Raises:
        ValueError: If an image lies outside the ball or [0, 1] by more than 1e-5; the message states its index and
            distance.
    """
    name, eps = type(attack).__name__, getattr(attack, "eps", None)
    if len(x_adv) == 0:
        return
    beyond = torch.maximum(-x_adv, x_adv - 1).flatten(1).amax(1)
    if not (beyond <= _TOLERANCE).all():
        worst = int(beyond.nan_to_num(torch.inf).argmax())
        raise ValueError(
            f"{name} leaves the pixel range: image {int(batch.indices[worst])} has a pixel {float(beyond[worst]):.4g} "
            "outside [0, 1]: clamp what it returns"
        )
    if eps is None:
        return
    distance = length(x_adv - batch.x, attack.norm).flatten()
    if not (distance <= eps + _TOLERANCE).all():
        worst = int(distance.argmax())
        far = float(distance[worst])
        levels = f" ({far * 255:.4g}/255)" if attack.norm == "linf" else ""
        raise ValueError(
            f"{name} leaves its ball: it moves image {int(batch.indices[worst])} by {far:.4g}{levels}, {attack.norm}, "
            f"but eps is {format_pixels(eps)}: project what it returns"
        )


def robust(
    network: nn.Module,
    attack: Attack,
    x: Tensor,
    y: Tensor,
    indices: Tensor,
    *,
    attack_network: nn.Module | None = None,
) -> Tensor:
    """Return whether each example stays correct under an attack, bool (N,); see :func:`attack_examples`."""
    return attack_examples(network, attack, Batch(x, y, indices), attack_network).correct
