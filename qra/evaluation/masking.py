"""Measurements that reveal gradient masking in a network; ``indicators`` judges their results.

The phenomena follow Athalye et al. 2018 (arXiv 1802.00420), Carlini et al. 2019 (arXiv 1902.06705) and the attack
failures that Pintor et al. 2022 (arXiv 2106.09947) list. How each is measured, its threshold and its name are qra's
own: these are not their indicators.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

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

_WHITE_BOX = ("more_steps", "more_restarts", "other_loss", "apgd", "scaled_logits")


@dataclass(frozen=True)
class MaskingSettings:
    """Settings of the masking check.

    Args:
        eps: L-inf perturbation budget of the attack in question, in pixel units.
        large_eps: L-inf budget at which no example should survive (for natural images), in pixel units.
        steps: Number of PGD steps, each a quarter of the budget.
        restarts: Number of restarts in addition to the first start.
        queries: Number of queries of the gradient-free attacks, Square and Polish.
        seed: Seed of start noise and queries.

    Raises:
        ValueError: If a setting is out of range.
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
        """Return PGD as an evaluation runs it, with some settings changed."""
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
    """Make all measurements on a batch.

    Args:
        network: The network, in eval mode.
        target: Attack-time copy of ``network``.
        batch: Float images in [0, 1], labels and data set indices.
        settings: Settings of the measurements.
        surrogate: Another network from which adversarial images are transferred.
        on_part: Called with the name of each attack and None before it, and again with the examples that are still
            correct after it, bool (N,).

    Returns:
        By name, one value per example, (N,), or, for the losses along PGD, (N, steps + 1).
    """
    x, y, indices = batch
    with float32(x.device):
        found = {"correct": is_correct(network, x, y), "random": _randomness(network, x)}
        found |= _instability(network, batch)
        with torch.no_grad():
            classes = network(x[:1]).shape[1]
        found["classes"] = torch.full_like(y, classes)
        found["zero_cross_entropy"] = zero_gradients(target, x, y)
        found["zero_other_loss"] = zero_gradients(target, x, y, _other_loss(classes))
        found |= _trace(network, target, batch, settings)

    others: dict[str, nn.Module] = {"scaled_logits": ScaledLogits(target, found["margin"][found["correct"]])}
    if surrogate is not None:
        others["transfer"] = surrogate
    found["white_box"] = found["correct"]
    for trial in trials(network, settings, classes, surrogate is not None):
        on_part(trial.what, None)
        among = found[trial.among]
        found[trial.name], left = among.clone(), among.nonzero().squeeze(1)
        if len(left):
            attacked = others.get(trial.name, target)
            correct = robust(network, trial.attack, x[left], y[left], indices[left], attack_network=attacked)
            found[trial.name][left] = correct
        on_part(trial.what, found[trial.name])
        if trial.name in _WHITE_BOX:
            found["white_box"] = found["white_box"] & found[trial.name]
    return found


class Trial(NamedTuple):
    """An attack on the examples that are still correct after another attack."""

    name: str
    what: str
    """Display name."""
    among: str
    """Name of the other attack; ``correct`` for all correctly classified examples."""
    attack: Attack


def trials(network: nn.Module, settings: MaskingSettings, classes: int, transfers: bool) -> list[Trial]:
    """Return all attacks to try, in order; with ``transfers``, images are also transferred from a surrogate."""
    eps, steps, seed = settings.eps, settings.steps, settings.seed
    pgd, whole_range = settings.pgd, PGD(1.0, 0.05, 2 * steps, start=UniformStart(seed), early_stop=True)
    found = [
        Trial("pgd", "PGD", "correct", pgd()),
        Trial("pgd_small", "PGD, a quarter of eps", "correct", pgd(eps / 4)),
        Trial("pgd_large", "PGD, large eps", "correct", pgd(settings.large_eps)),
        Trial("unbounded", "PGD without bound", "correct", whole_range),
        Trial("more_steps", "PGD, more steps", "pgd", pgd(steps=5 * steps)),
        Trial("more_restarts", "PGD, more starts", "pgd", pgd(restarts=1 + settings.restarts)),
        Trial("other_loss", "PGD, another loss", "pgd", pgd(loss=_other_loss(classes))),
        Trial("apgd", "APGD", "pgd", APGD(eps, steps=2 * steps, seed=seed)),
        Trial("scaled_logits", "PGD, logits scaled down", "pgd", pgd()),
        Trial("square", "Square", "white_box", Square(eps, queries=settings.queries, seed=seed)),
    ]
    if not why_no_unrounded(network):
        found.append(Trial("unrounded", "APGD, unrounded", "white_box", UnroundedAPGD(eps, 2 * steps, seed=seed)))
    found.append(Trial("polish", "Polish", "white_box", _PolishedAPGD(settings)))
    if transfers:
        found.append(Trial("transfer", "transfer", "white_box", pgd(early_stop=False)))
    return found


def why_no_unrounded(network: nn.Module) -> str:
    """Return why the unrounded version of a network is not attacked; empty if it is."""
    try:
        return "the network rounds no activations" if unrounded(network) is None else ""
    except ValueError as reason:
        return str(reason)


@dataclass(frozen=True)
class _PolishedAPGD(Cascade):
    """APGD, followed by Polish from its image of lowest margin."""

    settings: MaskingSettings

    @property
    def eps(self) -> float:
        return self.settings.eps

    def members(self) -> dict[str, Attack]:
        eps, seed = self.settings.eps, self.settings.seed
        apgd = APGD(eps, steps=2 * self.settings.steps, seed=seed)
        return {"apgd": apgd, "polish": Polish(eps, self.settings.queries, seed)}


class ScaledLogits(nn.Module):
    """A network whose logits are divided by their mean gap, so that the cross-entropy does not saturate.

    Args:
        network: Network that returns logits.
        gaps: Differences between the largest and the second largest logit, (N,). A mean below 1 changes nothing.
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
def _randomness(network: nn.Module, x: Tensor) -> Tensor:
    """Return the largest L2 distance of repeated forward passes' logits to the first, relative to its norm, (N,)."""
    first = network(x)
    length = first.norm(dim=1).clamp_min(torch.finfo(first.dtype).tiny)
    again = [(network(x) - first).norm(dim=1) / length for _ in range(3)]
    return torch.stack(again).amax(0)


@torch.no_grad()
def _instability(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Return the absolute margin, and its mean absolute change under uniform noise of +-0.001, (N,) each."""
    x, y, indices = batch
    margin = losses.cw_margin(network(x), y)
    changes = []
    for draw in range(5):
        delta = noise.uniform(x.shape[1:], indices, noise.Stream.SURROUNDINGS, draw).mul_(2e-3).sub_(1e-3)
        changes.append((losses.cw_margin(network((x + delta).clamp_(0, 1)), y) - margin).abs())
    return {"margin": margin.abs(), "margin_change": torch.stack(changes).mean(0)}


def zero_gradients(target: nn.Module, x: Tensor, y: Tensor, loss: AttackLoss = "cross_entropy") -> Tensor:
    """Return whether the gradient of a loss at the clean image is zero everywhere or not finite, bool (N,)."""
    with torch.inference_mode(False), torch.enable_grad():
        gradient, _ = PGD(loss=loss).gradient(target, x.clone(), y.clone())
    size = gradient.flatten(1).abs().sum(1)
    return (size == 0) | ~size.isfinite()


def _trace(network: nn.Module, target: nn.Module, batch: Batch, settings: MaskingSettings) -> dict[str, Tensor]:
    """Record losses and successes of PGD on the cross-entropy through all its steps, whether or not it succeeds."""
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
