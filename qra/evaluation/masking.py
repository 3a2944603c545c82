"""What is tried on a network to find out whether it hides its gradients; ``indicators`` judges what comes out.

What is looked for follows Athalye et al. 2018 (arXiv 1802.00420), Carlini et al. 2019 (arXiv 1902.06705) and the
failures of attacks that Pintor et al. 2022 (arXiv 2106.09947) list. How each is measured, its threshold and its name
are our own: these are not their indicators.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qra import losses, noise
from qra.attacks import APGD, PGD, Attack, Cascade, Polish, Square, UniformStart, UnroundedAPGD
from qra.attacks.pgd import AttackLoss
from qra.checks import check_count
from qra.evaluation.robustness import is_correct, robust
from qra.precision import float32
from qra.quant import unrounded
from qra.types import Batch, Pixels


@dataclass(frozen=True)
class MaskingSettings:
    """What is tried on a network.

    Args:
        eps: Budget of the attack in question, in pixel units, L-inf.
        large_eps: A budget under which nothing should be left (for natural images).
        steps: Steps of PGD, of a quarter of the budget each.
        restarts: Starts that are tried in addition to the first.
        queries: Number of queries of Square and of Polish, which take no gradients.
        seed: Seed of start noise and queries.

    Raises:
        ValueError: If a number is out of its range.
    """

    eps: Pixels = 8 / 255
    large_eps: Pixels = 32 / 255
    steps: int = 20
    restarts: int = 5
    queries: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.eps < self.large_eps <= 1:
            raise ValueError(
                f"eps is {self.eps:g} and large_eps {self.large_eps:g}: 0 < eps < large_eps <= 1 is needed"
            )
        for name, least in (("steps", 4), ("restarts", 1), ("queries", 1)):
            check_count(name, getattr(self, name), least)

    def pgd(self, eps: float | None = None, **changes: Any) -> PGD:
        """PGD as an evaluation runs it, in some ways changed."""
        eps = self.eps if eps is None else eps
        settings = {"steps": self.steps, "start": UniformStart(self.seed), "early_stop": True, **changes}
        return PGD(eps, eps / 4, **settings)


def measure(
    network: nn.Module,
    target: nn.Module,
    batch: Batch,
    settings: MaskingSettings,
    surrogate: nn.Module | None = None,
    on_part: Callable[[str, Tensor | None], None] = lambda part, correct: None,
) -> dict[str, Tensor]:
    """Try everything on a batch.

    Args:
        network: The network, in eval mode.
        target: What attacks differentiate, made from ``network``.
        batch: Float images in [0, 1], labels and data set indices.
        settings: What to try.
        surrogate: Another network, to transfer examples from.
        on_part: Called with what is tried next, and again with the examples that are still correct after it, bool (N,).

    Returns:
        By name, one value for each example, (N,) or, for the losses along PGD, (N, steps + 1).
    """
    x, y, indices = batch
    with float32(x.device):
        found = {"correct": is_correct(network, x, y), "random": _randomness(network, x)}
        found |= _instability(network, batch)
        with torch.no_grad():
            classes = network(x[:1]).shape[1]
        found["classes"] = torch.full_like(y, classes)
        found |= _gradients(target, x, y, _other_loss(classes))
        found |= _trace(network, target, batch, settings)

    def survive(name: str, what: str, among: Tensor, attack: Attack, attacked: nn.Module = target) -> None:
        on_part(what, None)
        found[name], left = among.clone(), among.nonzero().squeeze(1)
        if len(left):
            found[name][left] = robust(network, attack, x[left], y[left], indices[left], attack_network=attacked)
        on_part(what, found[name])

    survive("pgd", "PGD", found["correct"], settings.pgd())
    survive("pgd_small", "PGD, a quarter of eps", found["correct"], settings.pgd(settings.eps / 4))
    survive("pgd_large", "PGD, large eps", found["correct"], settings.pgd(settings.large_eps))
    whole_range = PGD(1.0, 0.05, 2 * settings.steps, start=UniformStart(settings.seed), early_stop=True)
    survive("unbounded", "PGD without bound", found["correct"], whole_range)
    survive("more_steps", "PGD, more steps", found["pgd"], settings.pgd(steps=5 * settings.steps))
    survive("more_restarts", "PGD, more starts", found["pgd"], settings.pgd(restarts=1 + settings.restarts))
    survive("other_loss", "PGD, another loss", found["pgd"], settings.pgd(loss=_other_loss(classes)))
    survive("apgd", "APGD", found["pgd"], APGD(settings.eps, steps=2 * settings.steps, seed=settings.seed))
    softer = ScaledLogits(target, found["margin"][found["correct"]])
    survive("scaled_logits", "PGD, logits scaled down", found["pgd"], settings.pgd(), softer)
    members = ("more_steps", "more_restarts", "other_loss", "apgd", "scaled_logits")
    found["white_box"] = torch.stack([found[name] for name in members]).all(0)
    square = Square(settings.eps, queries=settings.queries, seed=settings.seed)
    survive("square", "Square", found["white_box"], square)
    if not why_no_unrounded(network):
        on_unrounded = UnroundedAPGD(settings.eps, 2 * settings.steps, seed=settings.seed)
        survive("unrounded", "APGD, unrounded", found["white_box"], on_unrounded)
    survive("polish", "Polish", found["white_box"], _PolishedAPGD(settings))
    if surrogate is not None:
        survive("transfer", "transfer", found["white_box"], settings.pgd(early_stop=False), surrogate)
    return found


def why_no_unrounded(network: nn.Module) -> str:
    """Why nothing is tried on a network's unrounded self; empty if it is.

    Args:
        network: The network.
    """
    try:
        return "the network rounds no activations" if unrounded(network) is None else ""
    except ValueError as reason:
        return str(reason)


@dataclass(frozen=True)
class _PolishedAPGD(Cascade):
    """APGD, for its image of lowest margin, and Polish from there."""

    settings: MaskingSettings

    @property
    def eps(self) -> float:
        return self.settings.eps

    def members(self) -> dict[str, Attack]:
        eps, seed = self.settings.eps, self.settings.seed
        apgd = APGD(eps, steps=2 * self.settings.steps, seed=seed)
        return {"apgd": apgd, "polish": Polish(eps, self.settings.queries, seed)}


class ScaledLogits(nn.Module):
    """A network whose logits are divided by their usual gap, so that the cross-entropy does not saturate.

    Args:
        network: Returns logits.
        gaps: Differences of the largest logit and the second, (N,); a mean below 1 changes nothing.
    """

    def __init__(self, network: nn.Module, gaps: Tensor) -> None:
        super().__init__()
        self.network = network
        self.scale = max(1.0, float(gaps.mean())) if len(gaps) else 1.0

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits / self.scale


def _other_loss(classes: int) -> AttackLoss:
    return "dlr" if classes > 2 else "cw_margin"


@torch.no_grad()
def _randomness(network: nn.Module, x: Tensor, repetitions: int = 3) -> Tensor:
    """Largest distance between the logits of repeated forward passes, relative to their length, (N,)."""
    first = network(x)
    length = first.norm(dim=1).clamp_min(torch.finfo(first.dtype).tiny)
    again = [(network(x) - first).norm(dim=1) / length for _ in range(repetitions)]
    return torch.stack(again).amax(0)


@torch.no_grad()
def _instability(network: nn.Module, batch: Batch, radius: float = 1e-3, draws: int = 5) -> dict[str, Tensor]:
    """Size of the margin, and its mean change under noise of +-``radius``, (N,) each."""
    x, y, indices = batch
    margin = losses.cw_margin(network(x), y)
    changes = []
    for draw in range(draws):
        delta = noise.uniform(x.shape[1:], indices, noise.Stream.SURROUNDINGS, draw).mul_(2 * radius).sub_(radius)
        changes.append((losses.cw_margin(network((x + delta).clamp_(0, 1)), y) - margin).abs())
    return {"margin": margin.abs(), "margin_change": torch.stack(changes).mean(0)}


def _gradients(target: nn.Module, x: Tensor, y: Tensor, other_loss: AttackLoss) -> dict[str, Tensor]:
    """Whether the gradient of two losses at the clean image is zero everywhere or not finite, bool (N,)."""
    found = {}
    for name, attack in (("cross_entropy", PGD()), ("other_loss", PGD(loss=other_loss))):
        with torch.inference_mode(False), torch.enable_grad():
            gradient, _ = attack.gradient(target, x.clone(), y)
        size = gradient.flatten(1).abs().sum(1)
        found[f"zero_{name}"] = (size == 0) | ~size.isfinite()
    return found


def _trace(network: nn.Module, target: nn.Module, batch: Batch, settings: MaskingSettings) -> dict[str, Tensor]:
    """Follow PGD on cross-entropy through all its steps, whether or not it succeeds."""
    x, y, indices = batch
    attack = settings.pgd(early_stop=False)
    with torch.inference_mode(False), torch.enable_grad():
        x, y = x.clone(), y.clone()
        x_adv = attack.first_iterate(x, indices, 0, 0)
        values, fooled = [], []
        for _ in range(attack.steps):
            gradient, logits = attack.gradient(target, x_adv, y)
            values.append(attack.objective(logits, y))
            fooled.append(attack.is_fooled(logits, y))
            x_adv = attack.project(attack.ascend(x_adv, gradient), x)
    with torch.no_grad():
        logits = target(x_adv)
    values.append(attack.objective(logits, y))
    at_last = attack.is_fooled(logits, y)
    return {
        "losses": torch.stack(values, 1).detach(),
        "fooled_ever": torch.stack([*fooled, at_last]).any(0),
        "fooled_at_last": at_last,
        "only_the_copy": at_last & is_correct(network, x_adv, y),
    }
