"""Random numbers as pure functions: a draw depends on a key and an example's index, never on a generator state.

Draws are therefore the same on every device, at every batch size, on every rank and after resuming, and the global
generators stay untouched. The mixing function is the two-round multiply and xor-shift permutation of 32-bit integers
that Chris Wellons found by search ("lowbias32", 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

__all__ = ["integers", "normal", "uniform"]

_MASK = 0xFFFFFFFF


class Stream(IntEnum):
    """Part of a draw's key that separates purposes which share a seed and an epoch."""

    SPLIT = 1
    SUBSET = 2
    SHUFFLE = 3
    AUGMENT = 4
    SHAPE = 5
    GRAIN = 6
    OFFSET = 7
    TILE = 8
    SURROUNDINGS = 11
    CHUNKS = 13
    POLISH = 17
    BOUNDARY = 18
    START = 0x57A7


def _mix(bits: Tensor) -> Tensor:
    """Permute 32-bit integers held in int64, in place."""
    bits.bitwise_xor_(bits >> 16).mul_(0x7FEB352D).bitwise_and_(_MASK)
    bits.bitwise_xor_(bits >> 15).mul_(0x846CA68B).bitwise_and_(_MASK)
    return bits.bitwise_xor_(bits >> 16)


def _bits(shape: Sequence[int], index: Tensor, key: Sequence[int]) -> Tensor:
    """Return ``(N, *shape)`` uniform 32-bit integers, held in int64."""
    examples = _mix(index.to(torch.int64) & _MASK)
    for part in key:
        examples = _mix(examples.add_((0x9E3779B9 + part) & _MASK).bitwise_and_(_MASK))
    places = _mix(torch.arange(math.prod(shape), device=index.device))
    return _mix(examples[:, None] ^ places).view(-1, *shape)


def uniform(shape: Sequence[int], index: Tensor, *key: int) -> Tensor:
    """Draw from U[0, 1) for each example.

    Args:
        shape: Shape of the draw of one example.
        index: Dataset indices of the examples, (N,).
        key: Integers that identify the draw, such as a seed, an epoch and a restart.

    Returns:
        Tensor of shape ``(N, *shape)``, float32, on the device of ``index``.
    """
    return (_bits(shape, index, key) >> 8).to(torch.float32).mul_(2.0**-24)


def normal(shape: Sequence[int], index: Tensor, *key: int) -> Tensor:
    """Draw from N(0, 1) for each example, by the Box-Muller transform; see :func:`uniform`."""
    radius = (1 - uniform(shape, index, *key, 1)).log_().mul_(-2).sqrt_()
    return radius.mul_(uniform(shape, index, *key, 2).mul_(2 * math.pi).cos_())


def integers(high: int, shape: Sequence[int], index: Tensor, *key: int) -> Tensor:
    """Draw integers from 0 to ``high - 1`` for each example, int64; see :func:`uniform`."""
    return (uniform(shape, index, *key) * high).long()
