"""How an attack-time copy runs: its memory layout, the precision it is searched in, and recorded passes on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qra.graphs import InputReplays, ReplayState, Work, arithmetic
from qra.precision import Precision, searching
from qra.quant.network import activation_quantizers
from qra.quant.trace import copied


class _Layout(torch.autograd.Function):
    """To a memory layout and, for the gradient, back: outside, images stay contiguous (attacks call ``view``)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: torch.memory_format) -> Tensor:
        return x.contiguous(memory_format=layout)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.contiguous(), None


def layout(device: torch.device) -> torch.memory_format:
    """The memory layout that convolutions run fastest in, in the ambient arithmetic.

    On CUDA, float32 proper is 1.4 to 1.6 times as fast contiguous; all else is faster in channels-last.
    """
    autocast, tf32, _ = arithmetic(device)
    strict = device.type == "cuda" and autocast is None and not tf32
    return torch.contiguous_format if strict else torch.channels_last


class Passes:
    """Passes through an attack-time copy.

    A copy in the other layout is made where it is needed, and takes over the weights when it is used after a refresh.

    Attributes:
        replays: The recorded passes.

    Args:
        network: The network in channels-last, in eval mode.
    """

    def __init__(self, network: nn.Module) -> None:
        self.replays = InputReplays("the attack-time copy of the network")
        self._network = network
        self._state = ReplayState(network)
        # statistics of a batch would count the padding
        self._treats_images_alone = not any(
            isinstance(module, _BatchNorm) and module.running_mean is None for module in network.modules()
        )
        self._quantizers = list(activation_quantizers(network).values())
        self._contiguous: nn.Module | None = None
        self._is_stale = True
        self._is_recording = False

    def __call__(self, x: Tensor, precision: Precision | None) -> Tensor:
        """Logits of images in [0, 1], (N, C, H, W) to (N, classes)."""
        with searching(precision, x.device):
            chosen = layout(x.device)
            function = partial(_run, self._in_layout(chosen), chosen)
            if self._is_recording:
                return function(x)
            logits = self.replays(function, x, partial(self._depends_on, chosen))
            return function(x) if logits is None else logits

    def replay(
        self, network: nn.Module, work: Work, tensors: tuple[Tensor, ...], precision: Precision | None
    ) -> tuple[Tensor, ...]:
        """Do work that runs a network by these passes; see :func:`qra.attacks.base.replayed`."""

        def alone(*tensors: Tensor) -> tuple[Tensor, ...]:
            self._is_recording = True
            try:
                return work(network, *tensors)
            finally:
                self._is_recording = False

        with searching(precision, tensors[0].device):
            chosen = layout(tensors[0].device)
            self._in_layout(chosen)
            results = self.replays.work(work, alone, tensors, partial(self._depends_on, chosen))
            return work(network, *tensors) if results is None else results

    def again(self, take_over: Callable[[], None], source: nn.Module, quantizers: Sequence[nn.Module]) -> None:
        """Take over the weights of the source network, in place.

        Args:
            take_over: Does it.
            source: The network whose parameters and buffers are read.
            quantizers: Quantizers of the network's weights.
        """
        reads = [*source.parameters(), *source.buffers()]
        self.replays.again(take_over, reads, ReplayState(nn.ModuleList(quantizers))())
        self._is_stale = True

    def clear(self) -> None:
        """Forget what depends on where the weights lie."""
        self.replays.clear()
        self._contiguous = None

    def _depends_on(self, chosen: torch.memory_format) -> tuple[Hashable, ...] | None:
        state = self._state() if self._treats_images_alone else None
        return None if state is None else (chosen, *state)

    def _in_layout(self, chosen: torch.memory_format) -> nn.Module:
        if chosen == torch.channels_last:
            return self._network
        if self._contiguous is None:
            self._contiguous = copied(self._network).to(memory_format=torch.contiguous_format)
            self._contiguous_quantizers = list(activation_quantizers(self._contiguous).values())
        elif self._is_stale:
            self._take_over(self._contiguous)
        self._is_stale = False
        for own, quantizer in zip(self._contiguous_quantizers, self._quantizers, strict=True):
            own.gradient, own.enabled = quantizer.gradient, quantizer.enabled
        return self._contiguous

    @torch.no_grad()
    def _take_over(self, other: nn.Module) -> None:
        ours, theirs = ([*network.parameters(), *network.buffers()] for network in (self._network, other))
        torch._foreach_copy_(theirs, ours)
        for quantizer in self._contiguous_quantizers:
            quantizer.state_changed()


def _run(network: nn.Module, chosen: torch.memory_format, x: Tensor) -> Tensor:
    logits: Tensor = network(_Layout.apply(x, chosen))
    return logits
