"""Penultimate features of any network: the input of its last linear layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def last_linear(network: nn.Module) -> nn.Linear:
    """Return the last linear layer of a network, float or quantized, whose inputs are the penultimate features.

    Raises:
        ValueError: If there is none.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError("the network has no linear layer, so there are no penultimate features to compare")
    return layers[-1]


def with_features(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Run a network and also return its penultimate features.

    The network runs eagerly even if it is compiled, because compiled code ignores the hook that captures them.

    Args:
        network: The network; it is not changed.
        x: Input of the network.

    Returns:
        Logits (N, C) and features (N, D).
    """
    kept: list[Tensor] = []

    def keep(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept.extend((*args, *kwargs.values()))

    handle = last_linear(network).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        logits: Tensor = network._call_impl(x)  # type: ignore[no-untyped-call]
    finally:
        handle.remove()
    return logits, kept[-1]
