from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from qra.attacks import PGD, Attack
from qra.modules.aims import check_attack
from qra.modules.classifier import ImageClassifier
from qra.types import Batch


class AdversarialTraining(ImageClassifier):
    """Cross-entropy on adversarial examples of each batch (Madry et al. 2018, arXiv 1706.06083, eq. 2.1).

    Args:
        network: Network that maps pixels in [0, 1], (N, C, H, W), to logits.
        attack: Inner maximization. With ``FGSM`` from a random start this is fast adversarial training (Wong et al.
            2020, arXiv 2001.03994).
        settings: The other arguments of :class:`ImageClassifier`.
    """

    selection_metric: ClassVar[str] = "val/robust_acc"
    is_adversarial: ClassVar[bool] = True

    def __init__(self, network: nn.Module, attack: Attack = PGD(), **settings: Any) -> None:
        super().__init__(network, **settings)
        check_attack(attack, on_logits=False)
        self.attack = attack

    def training_loss(self, batch: Batch) -> Tensor:
        logits = self(self.maximize(self.attack, batch))
        self.log_accuracy("robust_acc", logits, batch.y)
        return F.cross_entropy(logits, batch.y)
