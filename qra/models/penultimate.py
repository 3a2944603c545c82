from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Penultimate:
    """Reads the penultimate features of a network, the input of its last linear layer, whatever its architecture.

    A hook on the layer sets them aside as they pass. Make it before the network is compiled: a compiled network does
    not notice a hook that comes later.

    Args:
        network: float or quantized; nothing in its ``state_dict`` changes.

    Attributes:
        dim: Number of features.

    Raises:
        ValueError: If the network has no linear layer.
    """

    def __init__(self, network: nn.Module) -> None:
        layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
        if not layers:
            raise ValueError(f"{type(network).__name__} has no linear layer, whose input would be its features")
        self.dim = layers[-1].in_features
        self._listening = False
        self._features: Tensor | None = None
        layers[-1].register_forward_pre_hook(self._set_aside)

    def _set_aside(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        if self._listening:
            self._features = args[0]

    def __call__(self, network: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network.

        Args:
            network: The one given at construction, or what calls it.
            x: Its input.

        Returns:
            Logits (N, C) and features (N, dim).
        """
        self._listening = True
        try:
            logits = network(x)
        finally:
            self._listening = False
        features, self._features = self._features, None
        assert features is not None
        return logits, features
