from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qra import losses
from qra.attacks import PGD, Attack, GaussianStart
from qra.checks import check_in
from qra.modules.aims import check_attack
from qra.modules.classifier import ImageClassifier
from qra.types import Batch


class Trades(ImageClassifier):
    """TRADES: clean cross-entropy plus divergence under the worst perturbation (Zhang et al. 2019).

    The loss is :func:`qra.losses.trades`. One clean pass serves both terms; the published code runs two, so its
    BatchNorm statistics weight clean images a little more.

    Args:
        network: Network that maps pixels in [0, 1], (N, C, H, W), to logits.
        attack: Inner maximization, away from the clean logits in eval mode; its loss must be ``kl``.
        beta: Weight of the divergence between clean and adversarial predictions; 0 is plain training.
        settings: The other arguments of :class:`ImageClassifier`.
    """

    selection_metric: ClassVar[str] = "val/robust_acc"
    is_adversarial: ClassVar[bool] = True

    def __init__(
        self,
        network: nn.Module,
        attack: Attack = PGD(start=GaussianStart(), loss="kl"),
        beta: float = 6.0,
        **settings: Any,
    ) -> None:
        super().__init__(network, **settings)
        check_attack(attack, on_logits=True)
        check_in("beta", beta, "[0, inf)")
        self.attack = attack
        self.beta = beta

    def training_loss(self, batch: Batch) -> Tensor:
        attacked = self.attack_network()
        with torch.no_grad():
            target = attacked(batch.x)
        x_adv = self.maximize(self.attack, batch, target, attacked)
        logits, logits_adv = self(batch.x), self(x_adv)
        self.log_accuracy("clean_acc", logits, batch.y)
        self.log_accuracy("robust_acc", logits_adv, batch.y)
        return losses.trades(logits, logits_adv, batch.y, self.beta)
