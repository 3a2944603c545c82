"""What a student learns from its teacher: training losses of robust distillation and of transfer by features.

Logits are (N, C), features (N, D), labels (N,); each loss is a scalar. Half precision is taken to float32. Nothing is
detached here: give teacher logits without a graph.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from qra.checks import check_in
from qra.losses.attack import at_least_float32, kl

Reduction = Literal["batchmean", "mean"]
"""As in torch's ``KLDivLoss``: the mean over images, or over images and classes, which is C times smaller."""


def rslad(
    logits: Tensor,
    logits_adv: Tensor,
    teacher_logits: Tensor,
    natural_weight: float = 1 / 6,
    reduction: Reduction = "batchmean",
    tiny: float = 0.0,
) -> Tensor:
    """Divergence of the student's adversarial and clean predictions from the teacher's clean ones; no labels.

    Zi et al. 2021 (Revisiting adversarial robustness distillation, arXiv 2108.07969).

    Args:
        logits: Logits of the student on clean images.
        logits_adv: Logits of the student on adversarial images.
        teacher_logits: Logits of the teacher on clean images.
        natural_weight: Share of the clean term, in [0, 1].
        reduction: The published code takes ``mean``, so that its learning rates are for gradients C times smaller.
        tiny: Added to the teacher's probabilities inside the logarithm: 1e-5 in the published code. It moves the value
            a little and no gradient.
    """
    clean, adversarial = (_divergence(z, teacher_logits, reduction, tiny) for z in (logits, logits_adv))
    return natural_weight * clean + (1 - natural_weight) * adversarial


def ard(
    logits: Tensor | None,
    logits_adv: Tensor,
    teacher_logits: Tensor,
    y: Tensor,
    temperature: float = 30.0,
    kd_weight: float = 1.0,
    reduction: Reduction = "batchmean",
) -> Tensor:
    """Distillation of the teacher's clean predictions into the student's adversarial ones, and cross-entropy.

    Goldblum et al. 2020 (Adversarially robust distillation, arXiv 1905.09747).

    Args:
        logits: Logits of the student on clean images, for the cross-entropy; not needed if ``kd_weight`` is 1.
        logits_adv: Logits of the student on adversarial images.
        teacher_logits: Logits of the teacher on clean images.
        y: Labels.
        temperature: Divides both logits; its square multiplies the divergence.
        kd_weight: Share of the distillation, in [0, 1]; cross-entropy has the rest.
        reduction: The published code takes ``mean``.

    Raises:
        ValueError: If the temperature or the share is out of its range, or clean logits are missing.
    """
    check_in("temperature", temperature, "(0, inf)")
    check_in("kd_weight", kd_weight, "[0, 1]")
    scaled = at_least_float32(logits_adv) / temperature, at_least_float32(teacher_logits) / temperature
    loss = kd_weight * temperature**2 * _divergence(*scaled, reduction)
    if kd_weight == 1:
        return loss
    if logits is None:
        raise ValueError(f"kd_weight is {kd_weight}: the cross-entropy then needs the student's clean logits")
    return loss + (1 - kd_weight) * F.cross_entropy(at_least_float32(logits), y)


def iad(
    logits: Tensor,
    logits_adv: Tensor,
    teacher_logits: Tensor,
    teacher_logits_adv: Tensor,
    y: Tensor,
    beta: float = 0.1,
    weigh_teacher: bool = True,
) -> Tensor:
    """Trust the teacher where it withstands the student's adversarial example, and the student itself elsewhere.

    Zhu et al. 2022 (Reliable adversarial distillation with unreliable teachers, arXiv 2106.04928): trust in an image is
    the teacher's probability of the label on the adversarial example, to the power ``beta``. It weighs the divergence
    from the teacher, and what is left of 1 weighs that from the student's own clean prediction.

    Args:
        logits: Logits of the student on clean images; the gradient flows through them too, as in the published code.
        logits_adv: Logits of the student on adversarial images.
        teacher_logits: Logits of the teacher on clean images.
        teacher_logits_adv: Logits of the teacher on adversarial images.
        y: Labels.
        beta: Sharpness of the trust.
        weigh_teacher: Whether trust weighs the teacher's term; in the published code it does not.
    """
    logits, logits_adv = at_least_float32(logits), at_least_float32(logits_adv)
    trust = at_least_float32(teacher_logits_adv).softmax(1).gather(1, y[:, None])[:, 0] ** beta
    teacher_term = kl(logits_adv, teacher_logits) * (trust if weigh_teacher else 1.0)
    return (teacher_term + (1 - trust) * kl(logits_adv, logits)).mean()


def adaad(
    logits: Tensor | None,
    logits_adv: Tensor,
    teacher_logits: Tensor | None,
    teacher_logits_adv: Tensor,
    natural_weight: float = 0.0,
    reduction: Reduction = "batchmean",
) -> Tensor:
    """Divergence of the student's from the teacher's prediction, both on the same image, adversarial or clean.

    Huang et al. 2023 (Boosting accuracy and robustness of student models via adaptive adversarial distillation).

    Args:
        logits: Logits of the student on clean images; not needed if ``natural_weight`` is 0.
        logits_adv: Logits of the student on adversarial images.
        teacher_logits: Logits of the teacher on clean images; not needed if ``natural_weight`` is 0.
        teacher_logits_adv: Logits of the teacher on adversarial images.
        natural_weight: Share of the clean term, in [0, 1]: 1 - alpha of the published code, which is 0 by default.
        reduction: The published code takes ``mean`` on CIFAR-10 and ``batchmean`` on CIFAR-100.

    Raises:
        ValueError: If clean logits are missing.
    """
    adversarial = _divergence(logits_adv, teacher_logits_adv, reduction)
    if natural_weight == 0:
        return adversarial
    if logits is None or teacher_logits is None:
        raise ValueError(f"natural_weight is {natural_weight}: the clean term then needs both networks' clean logits")
    clean = _divergence(logits, teacher_logits, reduction)
    return natural_weight * clean + (1 - natural_weight) * adversarial


def rrm(
    logits: Tensor, features: Tensor, teacher_features: Tensor, y: Tensor, cross_entropy_weight: float = 0.005
) -> Tensor:
    """Minus the mean cosine between the two networks' features, and a little cross-entropy, on clean images.

    Vaishnavi et al. 2022 (Transferring adversarial robustness through robust representation matching); the weight is
    that of the published code.
    """
    cosine = F.cosine_similarity(at_least_float32(features), at_least_float32(teacher_features), dim=1)
    return cross_entropy_weight * F.cross_entropy(at_least_float32(logits), y) - cosine.mean()


def lwf(logits: Tensor, features: Tensor, teacher_features: Tensor, y: Tensor, feature_weight: float = 0.005) -> Tensor:
    """Cross-entropy on clean images, and the L1 distance between the two networks' features.

    Shafahi et al. 2020 (Adversarially robust transfer learning, arXiv 1905.08232); norm and weight are those of the
    published code.
    """
    distance = (at_least_float32(features) - at_least_float32(teacher_features)).abs().sum(1)
    return F.cross_entropy(at_least_float32(logits), y) + feature_weight * distance.mean()


def _divergence(logits: Tensor, target_logits: Tensor, reduction: Reduction = "batchmean", tiny: float = 0.0) -> Tensor:
    """Mean KL(softmax(target_logits) || softmax(logits))."""
    log_q = at_least_float32(logits).log_softmax(1)
    p = at_least_float32(target_logits).softmax(1)
    divergence = (torch.xlogy(p, p + tiny) - p * log_q).sum(1).mean()
    return divergence if reduction == "batchmean" else divergence / logits.shape[1]
