"""Training losses of a student and its teacher: robust distillation and feature transfer.

Logits are (N, C), features (N, D), labels (N,); each loss is a scalar. Half precision is converted to float32. Nothing
is detached here, so teacher logits and features should be passed without a graph.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from qra.checks import check_in
from qra.losses.attack import kl
from qra.precision import at_least_float32

Reduction = Literal["batchmean", "mean"]
"""Reduction as in torch's ``KLDivLoss``, the mean over images, or over images and classes (C times smaller)."""


def rslad(
    logits: Tensor,
    logits_adv: Tensor,
    teacher_logits: Tensor,
    natural_weight: float = 1 / 6,
    reduction: Reduction = "batchmean",
    tiny: float = 0.0,
) -> Tensor:
    """Return the divergence of the student's adversarial and clean predictions from the teacher's clean ones.

    Labels are not used.

    Zi et al. 2021 (Revisiting adversarial robustness distillation, arXiv 2108.07969).

    Args:
        logits: Logits of the student on clean images.
        logits_adv: Logits of the student on adversarial images.
        teacher_logits: Logits of the teacher on clean images.
        natural_weight: Weight of the clean term, in [0, 1]; the adversarial term has the rest.
        reduction: Mean over images (``batchmean``) or over images and classes (``mean``). The published code uses
            ``mean``, so its learning rates are tuned for gradients C times smaller.
        tiny: Constant added to the teacher's probabilities inside the logarithm, 1e-5 in the published code. It shifts
            the loss slightly and does not affect gradients.
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
    """Return the divergence of the student's adversarial from the teacher's clean predictions, plus cross-entropy.

    Goldblum et al. 2020 (Adversarially robust distillation, arXiv 1905.09747).

    Args:
        logits: Logits of the student on clean images, for the cross-entropy; not needed if ``kd_weight`` is 1.
        logits_adv: Logits of the student on adversarial images.
        teacher_logits: Logits of the teacher on clean images.
        y: Labels.
        temperature: Divisor of the logits of both networks; the divergence is multiplied by its square.
        kd_weight: Weight of the distillation term, in [0, 1]; the cross-entropy has the rest.
        reduction: Mean over images (``batchmean``) or over images and classes (``mean``), as in the published code.

    Raises:
        ValueError: If the temperature or the weight is out of range, or clean logits are needed and missing.
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
    """Return a loss that trusts the teacher where it withstands the adversarial image, and the student elsewhere.

    Zhu et al. 2022 (Reliable adversarial distillation with unreliable teachers, arXiv 2106.04928). The trust is the
    teacher's probability of the label on the adversarial image, to the power ``beta``. It weights the divergence from
    the teacher's clean prediction; 1 minus the trust weights the divergence from the student's own clean prediction.

    Args:
        logits: Logits of the student on clean images; the gradient flows through them too, as in the published code.
        logits_adv: Logits of the student on adversarial images.
        teacher_logits: Logits of the teacher on clean images.
        teacher_logits_adv: Logits of the teacher on adversarial images.
        y: Labels.
        beta: Exponent of the trust.
        weigh_teacher: Whether the trust weights the teacher's term; in the published code it does not.
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
    """Return the divergence of the student's prediction from the teacher's on the same image, adversarial or clean.

    Huang et al. 2023 (Boosting accuracy and robustness of student models via adaptive adversarial distillation).

    Args:
        logits: Logits of the student on clean images; not needed if ``natural_weight`` is 0.
        logits_adv: Logits of the student on adversarial images.
        teacher_logits: Logits of the teacher on clean images; not needed if ``natural_weight`` is 0.
        teacher_logits_adv: Logits of the teacher on adversarial images.
        natural_weight: Weight of the clean term, in [0, 1], which is 1 - alpha of the published code, 0 by default; the
            adversarial term has the rest.
        reduction: Mean over images (``batchmean``) or over images and classes (``mean``). The published code uses
            ``mean`` on CIFAR-10 and ``batchmean`` on CIFAR-100.

    Raises:
        ValueError: If clean logits are needed and missing.
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
    """Return weighted cross-entropy minus the mean cosine similarity of the two networks' features, on clean images.

    Vaishnavi et al. 2022 (Transferring adversarial robustness through robust representation matching). The default
    weight is that of the published code.
    """
    cosine = F.cosine_similarity(at_least_float32(features), at_least_float32(teacher_features), dim=1)
    return cross_entropy_weight * F.cross_entropy(at_least_float32(logits), y) - cosine.mean()


def lwf(logits: Tensor, features: Tensor, teacher_features: Tensor, y: Tensor, feature_weight: float = 0.005) -> Tensor:
    """Return the cross-entropy on clean images plus the weighted mean L1 distance of the two networks' features.

    Shafahi et al. 2020 (Adversarially robust transfer learning, arXiv 1905.08232). The norm and the default weight are
    those of the published code.
    """
    distance = (at_least_float32(features) - at_least_float32(teacher_features)).abs().sum(1)
    return F.cross_entropy(at_least_float32(logits), y) + feature_weight * distance.mean()


def _divergence(logits: Tensor, target_logits: Tensor, reduction: Reduction = "batchmean", tiny: float = 0.0) -> Tensor:
    """Return the mean of KL(softmax(target_logits) || softmax(logits))."""
    log_q = at_least_float32(logits).log_softmax(1)
    p = at_least_float32(target_logits).softmax(1)
    divergence = (torch.xlogy(p, p + tiny) - p * log_q).sum(1).mean()
    return divergence if reduction == "batchmean" else divergence / logits.shape[1]
