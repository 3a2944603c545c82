"""Passes through a network that are recorded once and then replayed on static memory, as CUDA graphs are.

A small network keeps a GPU waiting for the host, which launches hundreds of kernels for each pass. A recorded pass is
one launch. It always reads and writes the same memory, so a batch is copied in, padded to one of a few sizes, and what
comes out is copied out; weights may change in place.
"""

from __future__ import annotations

import gc
import itertools
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

SIZES = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""What batches are padded to. Beyond, the device has enough to do for the host to keep up."""

T = TypeVar("T")
Pass = Callable[[Tensor], Tensor]


class Recorder(Protocol):
    """Records work on one pool of memory.

    Attributes:
        turn: Number of the pass that used the memory last.
    """

    turn: int

    def rehearse(self, work: Callable[[], object]) -> None:
        """Do work before it is recorded, so that libraries have chosen their algorithms."""

    def record(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Record work; return its results and what does it again, into the same results."""


class CUDARecorder:
    """Records CUDA graphs."""

    def __init__(self, device: torch.device) -> None:
        self.turn = 0
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def rehearse(self, work: Callable[[], object]) -> None:
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream), torch.random.fork_rng([self._device]):
            for _ in range(2):
                work()
        torch.cuda.current_stream(self._device).wait_stream(stream)

    def record(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        # other threads, such as the watchdog of a process group, may use the device meanwhile
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = work()
        return result, graph.replay


def cuda_recorder(device: torch.device) -> Recorder | None:
    """What records on a device; None where nothing is gained."""
    return CUDARecorder(device) if device.type == "cuda" else None


def padded(n: int) -> int | None:
    """The least of ``SIZES`` that holds ``n`` images; None if none does."""
    return next((size for size in SIZES if size >= n), None)


def arithmetic(device: torch.device) -> tuple[Hashable, ...]:
    """What the ambient settings make of convolutions and products: autocast's type, or None, and TensorFloat-32."""
    autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    return autocast, torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()


def replay_state(modules: Iterable[nn.Module]) -> tuple[Hashable, ...] | None:
    """What a recorded pass through some modules depends on besides tensors; None if it must not be recorded.

    A module may say so by a method ``replay_state`` of the same meaning. Hooks have to run each time.
    """
    states: list[Hashable] = []
    for module in modules:
        if module._forward_hooks or module._forward_pre_hooks:
            return None
        states.append(module.training)
        own = getattr(module, "replay_state", None)
        if own is not None:
            state = own()
            if state is None:
                return None
            states.append(state)
    return tuple(states)


class StaticPass:
    """A forward pass, and the backward pass to its gradients, on static memory.

    Args:
        function: Maps a batch to one tensor.
        x: A batch of the size that is recorded; it becomes the static memory.
        parameters: What gradients are taken for; for the batch if there are none.
        differentiable: Whether there is a backward pass at all.
        recorder: Its memory may be shared with other passes.
    """

    def __init__(
        self, function: Pass, x: Tensor, parameters: Sequence[Tensor], differentiable: bool, recorder: Recorder
    ) -> None:
        self._function, self._recorder = function, recorder
        self._differentiable, self._of_parameters = differentiable, bool(parameters)
        self._x = x.requires_grad_(differentiable and not parameters)
        self._wrt = tuple(parameters) or (self._x,)
        recorder.rehearse(self._both)
        self._output, self._replay_forward = recorder.record(self._forward)
        if differentiable:
            self._upstream = torch.zeros_like(self._output)
            self._gradients, self._replay_backward = recorder.record(self._backward)

    def _forward(self) -> Tensor:
        with torch.set_grad_enabled(self._differentiable):
            self._live = self._function(self._x)
        return self._live.detach()

    def _backward(self) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(self._live, self._wrt, self._upstream, allow_unused=True)

    def _both(self) -> None:
        self._upstream = torch.zeros_like(self._forward())
        if self._differentiable:
            self._backward()

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        """The output for ``x``, which may have fewer rows than were recorded, and the number of this turn."""
        with torch.no_grad():
            self._x[: len(x)].copy_(x)
        self._replay_forward()
        self._recorder.turn = next(_turns)
        return self._output[: len(x)].clone(), self._recorder.turn

    def backward(self, x: Tensor, turn: int, upstream: Tensor) -> list[Tensor | None]:
        """The gradients for the forward pass of ``x`` that was the given turn."""
        if self._recorder.turn != turn:  # the memory was used again since
            if self._of_parameters:
                raise RuntimeError("a recorded training step was differentiated twice: retain_graph does not work here")
            self.forward(x)
        self._recorder.turn = next(_turns)  # a backward pass frees what it has read
        self._upstream[: len(x)].copy_(upstream)
        if len(x) < len(self._x):
            self._upstream[len(x) :].zero_()
        self._replay_backward()
        if self._of_parameters:
            return _copies(self._gradients)
        (gradient,) = self._gradients
        return [None if gradient is None else gradient[: len(x)].clone()]


_turns = itertools.count(1)


def _copies(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Copy tensors in one launch; those of the static memory would be overwritten by the next step."""
    copies = iter(torch._foreach_mul([tensor for tensor in tensors if tensor is not None], 1.0))
    return [None if tensor is None else next(copies) for tensor in tensors]


class _Replay(Function):
    @staticmethod
    def forward(ctx: Any, recorded: StaticPass, ticket: object, x: Tensor, *parameters: Tensor) -> Tensor:
        output, ctx.turn = recorded.forward(x)
        ctx.recorded, ctx.ticket, ctx.count = recorded, ticket, len(parameters)
        ctx.save_for_backward(x)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.recorded.backward(*ctx.saved_tensors, ctx.turn, upstream)
        ctx.ticket = None
        return (None, None, None, *gradients) if ctx.count else (None, None, *gradients)


class _Replays:
    """What replays of inputs and of training have in common: when to record, and what to do where that fails."""

    def __init__(self, what: str, make_recorder: Callable[[torch.device], Recorder | None] = cuda_recorder) -> None:
        self._what = what
        self.make_recorder = make_recorder
        self.failed = False
        self.recorded: dict[tuple[Hashable, ...], Any] = {}

    def clear(self) -> None:
        """Forget all recorded passes, as their addresses do not hold any more."""
        self.recorded.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return type(self)(self._what, self.make_recorder)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "recorded": {}}

    def _record(
        self, function: Pass, x: Tensor, parameters: Sequence[Tensor], differentiable: bool, recorder: Recorder
    ) -> StaticPass | None:
        try:
            with torch.inference_mode(False), _without_cast_cache(x.device), _without_collection():
                return StaticPass(function, x, parameters, differentiable, recorder)
        except Exception as reason:  # whatever a network does that cannot be recorded
            self.failed = True
            self.clear()
            line = str(reason).strip().splitlines()[0] if str(reason).strip() else type(reason).__name__
            warnings.warn(f"{self._what} runs without CUDA graphs, more slowly: {line}", stacklevel=2)
            return None


class InputReplays(_Replays):
    """Replays a function of images and, where they take one, their gradient; all its passes share their memory.

    Sharing is safe: a backward pass whose memory another pass has used since repeats its forward pass first.
    """

    _recorder: Recorder | None = None

    def __call__(
        self, function: Pass, x: Tensor, depends_on: Callable[[], tuple[Hashable, ...] | None]
    ) -> Tensor | None:
        """Run ``function``, which treats each image by itself.

        Args:
            function: Used where nothing suitable was recorded yet.
            x: Images, (N, C, H, W).
            depends_on: Says what the function depends on besides tensors and the ambient arithmetic; None where it must
                not be recorded.

        Returns:
            Its result, or None where it has to be run as it is.
        """
        size = padded(len(x))
        if size is None or len(x) == 0 or self.failed:
            return None
        if self._recorder is None or not self.recorded:
            self._recorder = self.make_recorder(x.device)
        state = None if self._recorder is None else depends_on()
        if self._recorder is None or state is None:
            return None
        differentiable = x.requires_grad and torch.is_grad_enabled()
        key = (size, x.shape[1:], x.dtype, x.device, differentiable, arithmetic(x.device), state)
        if key not in self.recorded:
            static = torch.zeros((size, *x.shape[1:]), dtype=x.dtype, device=x.device)
            self.recorded[key] = self._record(function, static, (), differentiable, self._recorder)
        recorded = self.recorded.get(key)
        if recorded is None:
            return None
        if not differentiable:
            output: Tensor = recorded.forward(x)[0]
            return output
        result: Tensor = _Replay.apply(recorded, None, x)
        return result


class TrainingReplays(_Replays):
    """Replays a network in training, with the gradients of its parameters.

    Each batch that waits for its backward pass has memory of its own, so a step may run the network several times.
    """

    LIMIT = 3
    """Most batches of one kind that wait at the same time; more run as they are."""

    def __call__(self, network: nn.Module, x: Tensor) -> Tensor | None:
        """Run a network in train mode on a batch; None where it has to be run as it is."""
        if self.failed or x.requires_grad or not torch.is_grad_enabled() or not network.training:
            return None
        recorder = self.make_recorder(x.device)
        state = None if recorder is None else replay_state(network.modules())
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        if state is None or recorder is None or not parameters:
            return None
        addresses = tuple(parameter.data_ptr() for parameter in parameters)
        key = (x.shape, x.stride(), x.dtype, x.device, arithmetic(x.device), state, addresses)
        slots = self.recorded.setdefault(key, [])
        slot = next((each for each in slots if each.is_free), None)
        if slot is None and len(slots) < self.LIMIT:
            with _kept(network):
                recorded = self._record(network, x.detach().clone(), parameters, True, recorder)
            if recorded is None:
                return None
            slot = _Slot(recorded)
            slots.append(slot)
        if slot is None:
            return None
        result: Tensor = _Replay.apply(slot.recorded, slot.take(), x, *parameters)
        return result


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
def _without_cast_cache(device: torch.device) -> Iterator[None]:
    """Autocast as it is, but casts of weights are made anew: a cached one would be recorded as a constant."""
    if not torch.is_autocast_enabled(device.type):
        yield
        return
    with torch.autocast(device.type, torch.get_autocast_dtype(device.type), cache_enabled=False):
        yield


@contextmanager
def _without_collection() -> Iterator[None]:
    """No garbage collection inside: it might free memory of the device, which a recording does not survive."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _kept(network: nn.Module) -> Iterator[None]:
    """Give the buffers of a network, such as statistics, their values back."""
    before = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
