"""Training losses on images and their adversarial versions.

Each takes logits (N, C) of the same images, clean and adversarial, and labels (N,), and returns a scalar.
Half-precision logits are converted to float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qra.losses.attack import kl
from qra.precision import at_least_float32


def trades(logits: Tensor, logits_adv: Tensor, y: Tensor, beta: float = 6.0) -> Tensor:
    """Return the cross-entropy of the clean logits plus ``beta`` times their divergence from the adversarial ones.

    Zhang et al. 2019 (arXiv 1901.08573), eq. 5, with ``beta`` in place of 1 / lambda. As in the published code, the
    gradient flows through both sides of KL(clean || adversarial).
    """
    logits, logits_adv = at_least_float32(logits), at_least_float32(logits_adv)
    return F.cross_entropy(logits, y) + beta * kl(logits_adv, logits).mean()


def mart(logits: Tensor, logits_adv: Tensor, y: Tensor, beta: float = 5.0) -> Tensor:
    """Return boosted cross-entropy of the adversarial logits plus ``beta`` times their divergence from the clean ones.

    The divergence KL(clean || adversarial) has more weight the less confident the network is of the label on the clean
    image (Wang et al. 2020, Improving adversarial robustness requires revisiting misclassified examples). The small
    offsets from 1 are those of the published code; the first keeps the logarithm finite.
    """
    logits, logits_adv = at_least_float32(logits), at_least_float32(logits_adv)
    probability = logits.softmax(1).gather(1, y[:, None])[:, 0]
    wrong_adv = logits_adv.softmax(1).scatter(1, y[:, None], 0.0).amax(1)
    boosted = F.cross_entropy(logits_adv, y) - torch.log(1.0001 - wrong_adv).mean()
    return boosted + beta * (kl(logits_adv, logits) * (1.0000001 - probability)).mean()
