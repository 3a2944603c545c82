"""Trial of a network on two images, to find incompatibilities before anything is written."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qra.errors import reason_of
from qra.precision import float32
from qra.quant.network import eval_mode, float_mode

_SAME = 1e-5
"""Maximum difference between two identical passes, relative to the largest logit."""


def dry_run(network: nn.Module, x: Tensor, num_classes: int, exactly: bool) -> int:
    """Run :func:`try_out` with quantizers disabled, as they may not be calibrated yet."""
    with float_mode(network):
        return try_out(network, x, num_classes, exactly)


def try_out(network: nn.Module, x: Tensor, num_classes: int, exactly: bool) -> int:
    """Run a network on two images and check that it can be trained and attacked.

    Modes, gradients, statistics and random generators are left unchanged.

    Args:
        network: Network that takes pixels in [0, 1], (N, C, H, W), and should return logits (N, classes).
        x: Pixels in [0, 1], (2, C, H, W).
        num_classes: Number of classes in the data.
        exactly: Whether to also refuse more outputs than classes.

    Returns:
        The number of outputs.

    Raises:
        ValueError: If something is wrong; the message says what, in one line.
    """
    for name, weight in network.named_parameters():
        if weight.is_floating_point() and weight.dtype != torch.float32:
            kind = str(weight.dtype).removeprefix("torch.")
            raise ValueError(f"the network's {name} is {kind}: make it float32, by network.float()")
    x = x.detach().clone().requires_grad_()
    devices = [x.device] if x.device.type == "cuda" else []
    with (
        eval_mode(network),
        float32(x.device),
        torch.random.fork_rng(devices),
        torch.enable_grad(),
    ):
        first = _logits(network, x, num_classes, exactly)
        again = _logits(network, x, num_classes, exactly)
        if (first - again).abs().max() > _SAME * first.abs().max():
            raise ValueError(
                "the network returns different logits for the same images, even in eval mode: turn its "
                "dropout or noise off there, or attacks and accuracies mean nothing"
            )
        gradient = _gradient(first[0].sum(), x)
    if gradient is None:
        raise ValueError(
            "no gradient reaches the network's input: something in its forward pass (torch.no_grad, detach, a round "
            "trip through numpy) cuts it off, and gradient attacks would find nothing"
        )
    if gradient[1:].nan_to_num().any():  # NaN results from 0 times an infinite slope
        raise ValueError(
            "the network's logits for an image depend on the other images of the batch, even in eval mode (batch "
            "normalization without running statistics does that): attacks and accuracies would depend on the batch"
        )
    return first.shape[1]


def _gradient(output: Tensor, x: Tensor) -> Tensor | None:
    try:
        return torch.autograd.grad(output, x, allow_unused=True)[0] if output.requires_grad else None
    except Exception as reason:  # a network's code may raise anything
        message = reason_of(reason)[:300]
        raise ValueError(f"the network cannot be differentiated with respect to the image: {message}") from None


def _logits(network: nn.Module, x: Tensor, num_classes: int, exactly: bool) -> Tensor:
    shape = tuple(x.shape[1:])
    try:
        logits = network(x)
    except Exception as reason:  # a network's code may raise anything
        message = reason_of(reason)[:300]
        raise ValueError(f"the network cannot process images of the data, {shape}: {message}") from None
    if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.ndim != 2 or len(logits) != len(x):
        what = f"a {type(logits).__name__}"
        if isinstance(logits, Tensor):
            what = f"{str(logits.dtype).removeprefix('torch.')} of shape {tuple(logits.shape)}"
        raise ValueError(f"the network returns {what} for {len(x)} images: it must return only logits (N, classes)")
    outputs = logits.shape[1]
    if outputs < num_classes or (exactly and outputs > num_classes):
        raise ValueError(f"the network has {outputs} classes, but the data has {num_classes}: set num_classes")
    if not logits.isfinite().all():
        raise ValueError("the network's logits for two images of the data are not finite")
    return logits
