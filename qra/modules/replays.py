"""CUDA graph replays of the training passes of a network."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from qra.graphs import Recorder, Replay, Replays, ReplayState, StaticPass, arithmetic


class TrainingReplays(Replays):
    """Replays the training passes of a network, including the gradients of its parameters.

    Each batch that awaits its backward pass has memory of its own, so a step may run the network several times.
    """

    LIMIT = 3
    """Maximum number of batches of one kind that await their backward pass; further ones run without replay."""

    _state: ReplayState | None = None
    _parameters: tuple[nn.Parameter, ...] = ()
    _held: tuple[Tensor, ...] = ()  # parameters and buffers of the network
    _next: Recorder | None = None  # for the next batch to be recorded; kept because making one is expensive

    def clear(self) -> None:
        super().clear()
        self._next = None

    def look_again(self) -> None:
        """Forget which modules and parameters the network had, as they may have changed."""
        self._state = None

    def __call__(self, network: nn.Module, x: Tensor) -> Tensor | None:
        """Run a network in train mode on a batch; return None if it has to be run without replay."""
        if self.failed or x.requires_grad or not torch.is_grad_enabled() or not network.training:
            return None
        if self._next is None:
            self._next = self.make_recorder(x.device)
        if self._next is None:
            return None
        if self._state is None:
            self._state, self._parameters = ReplayState(network.modules()), tuple(network.parameters())
            self._held = (*self._parameters, *network.buffers())
        state = self._state()
        parameters = [parameter for parameter in self._parameters if parameter.requires_grad]
        if state is None or not parameters:
            return None
        trained = tuple(parameter.requires_grad for parameter in self._parameters)
        addresses = tuple(tensor.data_ptr() for tensor in self._held)
        key = (x.shape, x.stride(), x.dtype, x.device, arithmetic(x.device), state, trained, addresses)
        slots = self.recorded.setdefault(key, [])
        slot = next((each for each in slots if each.is_free), None)
        if slot is None and len(slots) < self.LIMIT:
            recorded = self._recorded(network, x, self._next)
            self._next = None
            if recorded is None:
                return None
            slot = _Slot(recorded)
            slots.append(slot)
        if slot is None:
            return None
        result: Tensor = Replay.apply(slot.recorded, slot.take(), x, *parameters)
        return result

    def _recorded(self, network: nn.Module, x: Tensor, recorder: Recorder) -> StaticPass | None:
        static = x.detach().clone()
        try:
            with _kept(network):
                return self.record("pass", x.device, lambda: _training_pass(network, static, recorder))
        except torch.OutOfMemoryError:
            self.failed.add("pass")
            warnings.warn(
                "not enough memory to record training: it runs without CUDA graphs, more slowly", stacklevel=2
            )
            return None


def _training_pass(network: nn.Module, x: Tensor, recorder: Recorder) -> StaticPass:
    """Record a training pass of a network, using aliases of its parameters.

    The parameters themselves may belong to batches that await their backward pass on another stream.

    Raises:
        RuntimeError: If the network uses a parameter other than by its name, which an alias cannot replace.
    """
    wanted = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    aliases: dict[str, Tensor] = {name: nn.Parameter(parameter.detach()) for name, parameter in wanted.items()}

    def function(x: Tensor) -> Tensor:
        output: Tensor = functional_call(network, aliases, (x,))
        return output

    found = torch.autograd.grad(function(x).sum(), list(wanted.values()), allow_unused=True)
    if any(gradient is not None for gradient in found):
        raise RuntimeError("a parameter of the network is used in another way than by its name")
    return StaticPass(function, x, list(aliases.values()), True, recorder)


class _Ticket:
    """Token that a batch holds until its backward pass."""


class _Slot:
    """Memory of one training batch."""

    def __init__(self, recorded: StaticPass) -> None:
        self.recorded = recorded
        self._ticket: Callable[[], object | None] = lambda: None

    @property
    def is_free(self) -> bool:
        return self._ticket() is None

    def take(self) -> _Ticket:
        ticket = _Ticket()
        self._ticket = weakref.ref(ticket)
        return ticket


@contextmanager
def _kept(network: nn.Module) -> Iterator[None]:
    """Restore the buffers of a network, such as running statistics, on exit."""
    before = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.data.copy_(value)  # .data: batches that await their backward pass must not notice
