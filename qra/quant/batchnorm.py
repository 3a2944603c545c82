"""Folding batch normalization (eval mode) into the convolution or linear layer before it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


class RemainingBN(NamedTuple):
    """Tensors that replace a convolution's weight and the tensors of the batch normalization after it."""

    conv_weight: Tensor
    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor


def _scale_and_shift(bn: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return the scale and shift, per channel, that ``bn`` applies in eval mode."""
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError("a batch normalization with track_running_stats=False has no statistics to fold")
    scale = torch.rsqrt(bn.running_var + bn.eps)
    if bn.affine:
        scale = scale * bn.weight
    shift = -bn.running_mean * scale
    return scale, shift + bn.bias if bn.affine else shift


def _rescale(weight: Tensor, scale: Tensor) -> Tensor:
    return weight * scale.view(-1, *[1] * (weight.ndim - 1))


def fold_batch_norm(weight: Tensor, bias: Tensor | None, bn: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of a single layer that equals a layer followed by ``bn`` in eval mode.

    Args:
        weight: Output channels first, (C, ...).
        bias: (C,), or None.
        bn: Batch normalization over C channels.

    Raises:
        ValueError: If ``bn`` has no running statistics.
    """
    scale, shift = _scale_and_shift(bn)
    return _rescale(weight, scale), shift if bias is None else bias * scale + shift


def fold_remain_bn(conv_weight: Tensor, bn: _BatchNorm) -> RemainingBN:
    """Fold everything but the shift, which stays in ``bn``, so that a network keeps its modules and keys.

    With the returned tensors, ``bn`` has weight 1, mean 0 and variance ``1 - eps``, and only adds ``bias``. A bias of
    the convolution, which is rare before a batch normalization, would have to be multiplied by
    ``bn.weight / sqrt(running_var + eps)`` as well.

    Args:
        conv_weight: Output channels first, (C, ...).
        bn: Affine batch normalization over C channels. It is not changed.

    Raises:
        ValueError: If ``bn`` has no running statistics, or no weight and bias to hold the shift.
    """
    if not bn.affine:
        raise ValueError("a batch normalization with affine=False has no bias to keep the shift: use fold_batch_norm")
    scale, shift = _scale_and_shift(bn)
    return RemainingBN(
        conv_weight=_rescale(conv_weight, scale),
        weight=torch.ones_like(shift),
        bias=shift,
        running_mean=torch.zeros_like(shift),
        running_var=torch.full_like(shift, 1 - bn.eps),
    )
