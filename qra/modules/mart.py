from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from qra import losses
from qra.attacks import PGD, Attack, GaussianStart
from qra.checks import check_in
from qra.modules.aims import check_attack
from qra.modules.classifier import ImageClassifier
from qra.types import Batch


class Mart(ImageClassifier):
    """MART: adversarial training with emphasis on images that the network misclassifies (Wang et al. 2020).

    The loss is :func:`qra.losses.mart`.

    Args:
        network: Network that maps pixels in [0, 1], (N, C, H, W), to logits.
        attack: Inner maximization; it moves away from the labels.
        beta: Weight of the divergence between clean and adversarial predictions.
        settings: The other arguments of :class:`ImageClassifier`.
    """

    selection_metric: ClassVar[str] = "val/robust_acc"
    is_adversarial: ClassVar[bool] = True

    def __init__(
        self, network: nn.Module, attack: Attack = PGD(start=GaussianStart()), beta: float = 5.0, **settings: Any
    ) -> None:
        super().__init__(network, **settings)
        check_attack(attack, on_logits=False)
        check_in("beta", beta, "[0, inf)")
        self.attack = attack
        self.beta = beta

    def training_loss(self, batch: Batch) -> Tensor:
        x_adv = self.maximize(self.attack, batch)
        logits, logits_adv = self(batch.x), self(x_adv)
        self.log_accuracy("clean_acc", logits, batch.y)
        self.log_accuracy("robust_acc", logits_adv, batch.y)
        return losses.mart(logits, logits_adv, batch.y, self.beta)
