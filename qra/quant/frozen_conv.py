"""The convolution of an attack-time copy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from qra.quant.layers import QuantConv2d, conv_arguments, share_parameters


class FrozenConv2d(nn.Conv2d):
    """A convolution whose parameters have no gradients, and whose input gradient is computed as a forward convolution.

    With the kernel mirrored, that is the same sum, for which cuDNN has faster kernels on a GPU. The weights may be
    stored in the dtype that autocast would cast them to.

    Attributes:
        mirrors_from: Smallest batch size for which the gradient is computed this way.
        exact: The same convolution with weights in their original dtype, used where a network disables autocast. It is
            in a list, so that it is not a submodule; the list is empty if the weights already have that dtype.

    Args:
        conv: The convolution to replace; its parameters are shared.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(**conv_arguments(conv))
        share_parameters(self, conv)
        self.mirrors_from = 1
        self.exact: list[FrozenConv2d] = []
        self._can_mirror = can_be_mirrored(self)

    def forward(self, input: Tensor) -> Tensor:
        if self.exact and not torch.is_autocast_enabled(input.device.type):
            exact: Tensor = self.exact[0](input)
            return exact
        differentiated = input.requires_grad and torch.is_grad_enabled() and not self.weight.requires_grad
        if not (self._can_mirror and differentiated and is_on_gpu(input) and len(input) >= self.mirrors_from):
            return super().forward(input)
        result: Tensor = MirroredGradient.apply(input, self.weight, self.bias, self.padding)
        return result


def frozen(conv: nn.Conv2d) -> nn.Conv2d:
    """Return ``conv`` as a :class:`FrozenConv2d`, or unchanged if it quantizes its inputs."""
    quantizes = isinstance(conv, QuantConv2d) and conv.input_quantizer is not None
    return conv if quantizes else FrozenConv2d(conv)


def is_on_gpu(x: Tensor) -> bool:
    """Whether a tensor is on a device where mirroring is faster."""
    return x.device.type == "cuda"


def can_be_mirrored(conv: nn.Conv2d) -> bool:
    """Whether the input gradient of a convolution is a plain convolution, with enough channels to gain from it."""
    plain = conv.stride == conv.dilation == (1, 1) and conv.groups == 1 and conv.padding_mode == "zeros"
    if not plain or conv.in_channels < 8 or isinstance(conv.padding, str):
        return False
    return all(padding < kernel for padding, kernel in zip(conv.padding, conv.kernel_size, strict=True))


class MirroredGradient(Function):
    """A convolution of ``x``, (N, C, H, W), whose input gradient is a convolution with the mirrored kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.padding = padding
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        kernel = weight.to(gradient.dtype).flip(2, 3).transpose(0, 1)
        padding = [size - 1 - padded for size, padded in zip(weight.shape[2:], ctx.padding, strict=True)]
        with torch.autocast(gradient.device.type, enabled=False):  # compute in the dtype of the forward pass
            return F.conv2d(gradient, kernel, padding=padding), None, None, None
