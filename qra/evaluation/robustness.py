"""Robust accuracy of a network under an attack: one way for all attacks, judged by the network itself."""

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

_TOLERANCE = 1e-5  # of distances in float32

Watch = Callable[[str, float, int], None]
"""Called with the title of the attack at work, the share of the work done, and the number of correct examples."""


@torch.no_grad()
def is_correct(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Whether the network in eval mode is correct, in float32: (N, C, H, W) and (N,) to bool (N,)."""
    with float32(x.device):
        (logits,) = Parts()(lambda part: (network(part),), x)
    return prediction(logits) == y


class Attacked(NamedTuple):
    """What an attack did to some examples."""

    first_broken_by: Tensor
    """0 where the network is wrong from the start, k where the k-th of the attack's members broke the example, and one
    more than there are members where the example stays correct; uint8, (N,)."""
    x_adv: Tensor
    """The images that break examples, the ones that the attack ended with, or clean ones, (N, C, H, W)."""
    correct: Tensor
    """Whether the network stays correct, bool (N,)."""


def members(attack: Attack) -> dict[str, Attack]:
    """The attacks that one consists of, by name; itself, if it is one."""
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
    """Attack the examples that are correct to begin with.

    What the attack finds counts only if ``network`` itself gets it wrong; an example that only ``search`` gets wrong is
    worked on further. Global random generators, modes and gradients of parameters stay as they are.

    Args:
        network: Judged in eval mode and float32.
        attack: Attack whose members are run in their order, each on what is left.
        batch: Float images in [0, 1], labels, and data set indices, which choose random draws.
        search: What the attack sees: the same function, made for gradients (see ``qra.quant.freeze``), or another
            network, whose adversarial examples are tried on ``network``. ``network`` if not given.
        pixels: Whether the network receives bytes. If so, images are rounded wherever the attack looks, which
            differentiates straight through that, and the network judges real bytes.
        watch: Called in each iteration.
        source: What the attack sees instead, if each of its iterates is to be tried on ``search``, whatever this one
            says of it.

    Raises:
        ValueError: If the attack asks for targets, does not suit the network, or leaves its ball or [0, 1].
    """
    x, y, indices = batch
    if attack.aim == "targets":
        raise ValueError(f"{type(attack).__name__} is targeted: evaluations have labels to leave, no classes to reach")
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
    """Tells how much of the planned work is done; what examples that broke early saved counts as done."""

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
    """Refuse images that no attack of this budget may give.

    Args:
        attack: The attack; its ball is looked at if it has the field ``eps``.
        batch: The clean images.
        x_adv: The adversarial ones, (N, C, H, W).

    Raises:
        ValueError: If one lies outside of the ball or of [0, 1], with its index and how far.
    """
    name, eps = type(attack).__name__, getattr(attack, "eps", None)
    if len(x_adv) == 0:
        return
    beyond = torch.maximum(-x_adv, x_adv - 1).flatten(1).amax(1)
    if not (beyond <= _TOLERANCE).all():
        worst = int(beyond.nan_to_num(torch.inf).argmax())
        raise ValueError(
            f"{name} leaves the pixel range: image {int(batch.indices[worst])} has a pixel {float(beyond[worst]):.4g} "
            "outside of [0, 1]: clamp what it returns"
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


def attacked(
    network: nn.Module,
    attack: Attack,
    x: Tensor,
    y: Tensor,
    indices: Tensor,
    *,
    attack_network: nn.Module | None = None,
) -> tuple[Tensor, Tensor]:
    """Attack examples: whether each stays correct, bool (N,), and the images of :func:`attack_examples`."""
    found = attack_examples(network, attack, Batch(x, y, indices), attack_network)
    return found.correct, found.x_adv


def robust(
    network: nn.Module,
    attack: Attack,
    x: Tensor,
    y: Tensor,
    indices: Tensor,
    *,
    attack_network: nn.Module | None = None,
) -> Tensor:
    """Whether each example stays correct under an attack, bool (N,); see :func:`attack_examples`."""
    return attack_examples(network, attack, Batch(x, y, indices), attack_network).correct
