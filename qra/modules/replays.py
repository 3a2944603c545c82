"""Recorded passes of a network in training."""

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
    """Replays a network in training, with the gradients of its parameters.

    Each batch that waits for its backward pass has memory of its own, so a step may run the network several times.
    """

    LIMIT = 3
    """Most batches of one kind that wait at the same time; more run as they are."""

    _state: ReplayState | None = None
    _parameters: tuple[nn.Parameter, ...] = ()
    _held: tuple[Tensor, ...] = ()  # all that lies in memory of the network
    _next: Recorder | None = None  # of the next batch that is recorded; making one takes as long as launching much work

    def clear(self) -> None:
        super().clear()
        self._next = None

    def look_again(self) -> None:
        """Hear that the network may have other modules or parameters than before."""
        self._state = None

    def __call__(self, network: nn.Module, x: Tensor) -> Tensor | None:
        """Run a network in train mode on a batch; None where it has to be run as it is."""
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
            warnings.warn("no memory to record training: it runs without CUDA graphs, more slowly", stacklevel=2)
            return None


def _training_pass(network: nn.Module, x: Tensor, recorder: Recorder) -> StaticPass:
    """Record a pass of a network in training, with aliases of its parameters that nothing else knows.

    The parameters themselves may belong to batches that wait for their backward pass, on another stream.

    Raises:
        RuntimeError: If the network uses a parameter otherwise than by its name, which an alias cannot stand for.
    """
    wanted = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    aliases: dict[str, Tensor] = {name: nn.Parameter(parameter.detach()) for name, parameter in wanted.items()}

    def function(x: Tensor) -> Tensor:
        output: Tensor = functional_call(network, aliases, (x,))
        return output

    found = torch.autograd.grad(function(x).sum(), list(wanted.values()), allow_unused=True)
    if any(gradient is not None for gradient in found):
        raise RuntimeError("a parameter of the network is used otherwise than by its name")
    return StaticPass(function, x, list(aliases.values()), True, recorder)


class _Ticket:
    """Held by a batch until its backward pass."""


class _Slot:
    """The memory of one batch in training."""

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
    """Give the buffers of a network, such as statistics, their values back."""
    before = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.data.copy_(value)  # unnoticed by batches that wait for their backward pass
