"""How an attack-time copy runs: its memory layout, the precision of attacks, and recorded passes on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qra.graphs import InputReplays, ReplayState, Work, arithmetic
from qra.precision import Precision, searching
from qra.quant.frozen_conv import FrozenConv2d
from qra.quant.network import activation_quantizers
from qra.quant.trace import copied


class _Layout(torch.autograd.Function):
    """Change the memory layout, and back for the gradient: outside, images stay contiguous (attacks call ``view``)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: torch.memory_format) -> Tensor:
        return x.contiguous(memory_format=layout)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.contiguous(), None


def layout(device: torch.device) -> torch.memory_format:
    """Return the memory layout in which convolutions run fastest under the ambient precision settings.

    On CUDA, strict float32 is 1.4 to 1.6 times as fast in contiguous layout; everything else is faster in
    channels-last.
    """
    autocast, tf32, _ = arithmetic(device)
    strict = device.type == "cuda" and autocast is None and not tf32
    return torch.contiguous_format if strict else torch.channels_last


def weight_type(device: torch.device) -> torch.dtype | None:
    """Return the dtype in which to store the weights of convolutions on a GPU; None for their own.

    Otherwise autocast would cast float32 weights in each pass, with one launch per weight.
    """
    autocasts = device.type == "cuda" and torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if autocasts else None


Form = tuple[torch.memory_format, torch.dtype | None]
"""Memory layout of an attack-time copy, and dtype of its convolutions' weights (None for their own)."""


def form_on(device: torch.device) -> Form:
    """Return the form in which an attack-time copy runs fastest under the ambient precision settings."""
    return layout(device), weight_type(device)


_OWN: Form = (torch.channels_last, None)
_STRICT: Form = (torch.contiguous_format, None)
_STRICT_MIRRORS_FROM = 129
"""Smallest batch size for the mirrored input gradient in strict float32.

For up to 128 images, cuDNN's own input gradient of ResNet20 was as fast or faster. Where cuDNN may benchmark its
algorithms, the mirrored one was faster from 80 images on.
"""


class _Other:
    """An attack-time copy in another form.

    Args:
        network: The copy.
        form: The form.
    """

    def __init__(self, network: nn.Module, form: Form) -> None:
        memory_format, dtype = form
        self._source = network
        self.network = copied(network).to(memory_format=memory_format)
        for theirs, ours in zip(network.modules(), self.network.modules(), strict=True):
            if isinstance(ours, FrozenConv2d) and isinstance(theirs, FrozenConv2d):
                if dtype is not None and ours.weight.dtype == torch.float32:
                    ours.to(dtype)
                    ours.exact = [theirs]
                if form == _STRICT and not torch.backends.cudnn.benchmark:
                    ours.mirrors_from = _STRICT_MIRRORS_FROM
        if dtype is not None and network._compiled_call_impl is not None:
            self.network.compile()
        quantizers = (activation_quantizers(each).values() for each in (network, self.network))
        self._quantizers = list(zip(*quantizers, strict=True))

    def take_over(self) -> None:
        """Copy the weights, in place."""
        theirs, ours = ([*each.parameters(), *each.buffers()] for each in (self._source, self.network))
        if ours:
            torch._foreach_copy_(ours, theirs)

    def state_changed(self) -> None:
        """Tell the quantizers that their state was overwritten."""
        for _, quantizer in self._quantizers:
            quantizer.state_changed()

    def in_mode(self) -> nn.Module:
        """Return the copy, with its quantizers in the modes of the first copy's, and their constants read."""
        for theirs, ours in self._quantizers:
            if (ours.gradient, ours.enabled) != (theirs.gradient, theirs.enabled):
                ours.gradient, ours.enabled = theirs.gradient, theirs.enabled
            ours.replay_state()  # compiled code could not read them
        return self.network


class Passes:
    """Forward passes of an attack-time copy, with further copies in the forms that run fastest.

    Changes that others make to the first copy, such as hooks, do not reach the further copies; a refresh does.

    Attributes:
        replays: The recorded passes.
        contiguous: Whether the network is correct only on contiguous images, because it views them or depends on
            strides.

    Args:
        network: The network in channels-last and in eval mode.
    """

    def __init__(self, network: nn.Module) -> None:
        self.replays = InputReplays("the attack-time copy of the network")
        self.contiguous = False
        self._network = network
        self._state = ReplayState(network.modules())
        # batch statistics would include the padding
        self._treats_images_alone = not any(
            isinstance(module, _BatchNorm) and module.running_mean is None for module in network.modules()
        )
        self._others: dict[Form, _Other] = {}
        self._is_recording = False

    def __call__(self, x: Tensor, precision: Precision | None) -> Tensor:
        """Return the logits, (N, classes), of images in [0, 1], (N, C, H, W)."""
        with searching(precision, x.device):
            chosen = self._form(x.device)
            function = partial(_run, self._in_form(chosen), chosen[0])
            if self._is_recording:
                return function(x)
            logits = self.replays(function, x, partial(self._depends_on, chosen))
            return function(x) if logits is None else logits

    def replay(
        self, network: nn.Module, work: Work, tensors: tuple[Tensor, ...], precision: Precision | None
    ) -> tuple[Tensor, ...]:
        """Run work that uses ``network`` through these passes; see :func:`qra.attacks.base.replayed`."""

        def alone(*tensors: Tensor) -> tuple[Tensor, ...]:
            self._is_recording = True
            try:
                return work(network, *tensors)
            finally:
                self._is_recording = False

        with searching(precision, tensors[0].device):
            chosen = self._form(tensors[0].device)
            self._in_form(chosen)
            results = self.replays.work(work, alone, tensors, partial(self._depends_on, chosen))
            return work(network, *tensors) if results is None else results

    def again(
        self, take_over: Callable[[], None], source: Iterable[nn.Module], quantizers: Iterable[nn.Module]
    ) -> None:
        """Copy the weights of the source network, in place.

        Args:
            take_over: Function that copies them.
            source: All modules of the network whose parameters and buffers are read.
            quantizers: Quantizers of the network's weights.
        """
        held = (values for module in source for values in (module._parameters, module._buffers))
        reads = [value for values in held for value in values.values() if value is not None]
        state = ReplayState(quantizers)()

        def take_over_all() -> None:
            take_over()
            for other in self._others.values():
                other.take_over()

        self.replays.again(take_over_all, reads, None if state is None else (*self._others, *state))
        for other in self._others.values():
            other.state_changed()

    def clear(self) -> None:
        """Discard everything that depends on the memory addresses of the weights."""
        self.replays.clear()
        self._others.clear()

    def _depends_on(self, chosen: Form) -> tuple[Hashable, ...] | None:
        state = self._state() if self._treats_images_alone else None
        return None if state is None else (chosen, *state)

    def _form(self, device: torch.device) -> Form:
        memory_format, dtype = form_on(device)
        return torch.contiguous_format if self.contiguous else memory_format, dtype

    def _in_form(self, chosen: Form) -> nn.Module:
        if chosen == _OWN:
            return self._network
        if chosen not in self._others:
            with torch.inference_mode(False):
                self._others[chosen] = _Other(self._network, chosen)
        return self._others[chosen].in_mode()


def _run(network: nn.Module, chosen: torch.memory_format, x: Tensor) -> Tensor:
    logits: Tensor = network(_Layout.apply(x, chosen))
    return logits
