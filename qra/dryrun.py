"""Trial of a network on two images, to find incompatibilities before anything is written."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from qra.errors import reason_of
from qra.precision import float32
from qra.quant.network import eval_mode, float_mode

_SAME = 1e-5
"""Maximum difference between two identical passes, relative to the largest logit."""


def dry_run(network: nn.Module, x: Tensor, num_classes: int, exactly: bool) -> int:
    """Run :func:`try_out` with quantizers disabled, as they may not be calibrated yet.

    Raises:
        ValueError: If something is wrong, including weights that the network uses but checkpoints would not hold.
    """
    held = _held(network)
    with float_mode(network):
        outputs = try_out(network, x, num_classes, exactly)
        if late := sorted(_held(network) - held):
            raise ValueError(
                f"the network makes its {late[0]} only when it first runs, so that its checkpoint could not be loaded: "
                "make it in the constructor, or run the network there on an image"
            )
        _check_registered(network, x)
    return outputs


def _held(network: nn.Module) -> set[str]:
    """Return the names of the values that a checkpoint would hold now."""
    return {name for name, value in network.state_dict().items() if not is_lazy(value)}


def _check_registered(network: nn.Module, x: Tensor) -> None:
    """Reject a network that computes with weights which are not among its parameters."""
    with eval_mode(network), torch.enable_grad():
        nodes, seen = [network(x).grad_fn], {None}
    own = {id(weight) for weight in network.parameters()}
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        weight = getattr(node, "variable", None)
        if weight is not None and id(weight) not in own:
            raise ValueError(
                f"the network computes with weights of shape {tuple(weight.shape)} that are not among its parameters, "
                "so that no checkpoint would hold them: keep layers in nn.ModuleList or nn.ModuleDict, not in a list"
            )
        nodes += [following for following, _ in node.next_functions]


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
        with torch.no_grad():
            _logits(network, images := x.clone(), num_classes, exactly)
        if not torch.equal(images, x):
            raise ValueError(
                "the network changes its images in place, so that attacks would start from others: use operations that "
                "return new tensors (x - mean, not x.sub_(mean))"
            )
        first = _logits(network, x, num_classes, exactly)
        _logits(network, x[:1], num_classes, exactly)
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
        what, images = f"a {type(logits).__name__}", "1 image" if len(x) == 1 else f"{len(x)} images"
        if isinstance(logits, Tensor):
            what = f"{str(logits.dtype).removeprefix('torch.')} of shape {tuple(logits.shape)}"
        raise ValueError(f"the network returns {what} for {images}: it must return only logits (N, classes)")
    outputs = logits.shape[1]
    if outputs < num_classes or (exactly and outputs > num_classes):
        raise ValueError(f"the network has {outputs} classes, but the data has {num_classes}: set num_classes")
    if not logits.isfinite().all():
        raise ValueError("the network's logits for two images of the data are not finite")
    return logits
