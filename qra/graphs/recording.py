"""Recording and replaying a pass or other work on static memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

T = TypeVar("T")
Pass = Callable[[Tensor], Tensor]
Work = Callable[..., tuple[Tensor, ...]]


class Recorder(Protocol):
    """Interface of objects that record work on one memory pool.

    Attributes:
        turn: Number of the pass that last used the memory.
    """

    turn: int

    def rehearse(self, work: Callable[[], object]) -> None:
        """Run work before it is recorded, so that libraries choose their algorithms."""

    def record(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Record work; return its results, and a function that replays it and overwrites these results."""


class CUDARecorder:
    """Records CUDA graphs."""

    def __init__(self, device: torch.device) -> None:
        self.turn = 0
        self._rehearsals = 2
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.inference_mode(False), torch.enable_grad():  # so that the autograd thread knows the device
            one = torch.ones((), device=device, requires_grad=True)
            torch.autograd.grad(2 * one, one)

    def rehearse(self, work: Callable[[], object]) -> None:
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream), torch.random.fork_rng([self._device]):
            for _ in range(self._rehearsals):
                work()
        self._rehearsals = 1
        torch.cuda.current_stream(self._device).wait_stream(stream)

    def record(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        # torch's default capture stream belongs to the device of its first graph, and work on another device would not
        # be captured; other threads, such as the watchdog of a process group, may use the device meanwhile
        recording = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
        with torch.cuda.device(self._device), torch.cuda.stream(torch.cuda.current_stream(self._device)), recording:
            result = work()  # where this fails, the recording leaves its own stream as the current one
        return result, graph.replay


def cuda_recorder(device: torch.device) -> Recorder | None:
    """Return a recorder for a device, or None if recording is not wanted there.

    Only CUDA devices are recorded. Deterministic runs are not: a resumed run must compute the same as an uninterrupted
    one from the first step on.
    """
    wanted = device.type == "cuda" and not torch.are_deterministic_algorithms_enabled()
    return CUDARecorder(device) if wanted else None


class StaticPass:
    """A recorded forward pass, and the backward pass that computes its gradients, on static memory.

    Args:
        function: Function that maps a batch to one tensor.
        x: A batch of the recorded size; it becomes the static memory.
        parameters: Tensors to compute gradients for; if empty, gradients are computed for the batch.
        differentiable: Whether there is a backward pass.
        recorder: Recorder of the graph, whose memory may be shared with other passes.
    """

    def __init__(
        self, function: Pass, x: Tensor, parameters: Sequence[Tensor], differentiable: bool, recorder: Recorder
    ) -> None:
        self._function, self._recorder = function, recorder
        self._differentiable, self._of_parameters = differentiable, bool(parameters)
        self._live: Tensor | None = None
        self._packing = Packing()
        self._x = x.requires_grad_(differentiable and not parameters)
        self._wrt = tuple(parameters) or (self._x,)
        recorder.rehearse(self._both)
        self._output, self._replay_forward = recorder.record(self._forward)
        if differentiable:
            self._upstream = torch.zeros_like(self._output)
            self._gradients, self._replay_backward = recorder.record(self._backward)
        self._live = None  # its autograd graph, which keeps parameters alive, is no longer needed

    def _forward(self) -> Tensor:
        with torch.set_grad_enabled(self._differentiable):
            live = self._function(self._x)
        self._live = live
        return live.detach()

    def _backward(self) -> tuple[Tensor | None, ...]:
        assert self._live is not None  # set by the preceding forward pass
        gradients = torch.autograd.grad(self._live, self._wrt, self._upstream, allow_unused=True)
        return self._packing.pack(gradients) if self._of_parameters else gradients

    def _both(self) -> None:
        self._upstream = torch.zeros_like(self._forward())
        if self._differentiable:
            self._backward()
        self._live = None  # nodes of its autograd graph belong to the stream of the rehearsal

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        """Return the output for ``x``, which may have fewer rows than were recorded, and the number of this turn."""
        with torch.no_grad():
            self._x[: len(x)].copy_(x)
        self._replay_forward()
        self._recorder.turn = next(_turns)
        return self._output[: len(x)].clone(), self._recorder.turn

    def backward(self, x: Tensor, turn: int, upstream: Tensor) -> list[Tensor | None]:
        """Return the gradients of the forward pass of ``x`` with the given turn number.

        If another pass has used the memory since, the forward pass is repeated first.

        Raises:
            RuntimeError: If gradients of parameters are asked for after the memory was used again.
        """
        if self._recorder.turn != turn:  # the memory has been reused since
            if self._of_parameters:
                raise RuntimeError(
                    "a recorded training step was differentiated twice: retain_graph is not supported here"
                )
            self.forward(x)
        self._recorder.turn = next(_turns)  # a backward pass frees the tensors that it read
        self._upstream[: len(x)].copy_(upstream)
        if len(x) < len(self._x):
            self._upstream[len(x) :].zero_()
        self._replay_backward()
        if self._of_parameters:
            return self._packing.copies(self._gradients)
        (gradient,) = self._gradients
        return [None if gradient is None else gradient[: len(x)].clone()]


class Packing:
    """Packs tensors into one tensor per dtype, so that all are copied in one launch."""

    _ALIGNED = 64

    def pack(self, tensors: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        """Copy tensors, some of which may be None, into one long tensor per dtype."""
        present = [tensor for tensor in tensors if tensor is not None]
        types = list(dict.fromkeys(tensor.dtype for tensor in present))
        ends = [0] * len(types)
        self._places: list[tuple[int, torch.Size, tuple[int, ...], int] | None] = []
        for tensor in tensors:
            if tensor is None:
                self._places.append(None)
                continue
            number = types.index(tensor.dtype)
            strides = torch.empty_like(tensor, device="meta").stride()  # without gaps
            self._places.append((number, tensor.shape, strides, ends[number]))
            ends[number] += -(-tensor.numel() // self._ALIGNED) * self._ALIGNED
        packed = tuple(present[0].new_empty(end, dtype=dtype) for end, dtype in zip(ends, types, strict=True))
        if present:
            with torch.no_grad():
                torch._foreach_copy_([each for each in self._parts(packed) if each is not None], present)
        return packed

    def copies(self, packed: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return the packed tensors as new tensors."""
        return self._parts([each.clone() for each in packed if each is not None])

    def _parts(self, packed: Sequence[Tensor]) -> list[Tensor | None]:
        return [None if place is None else packed[place[0]].as_strided(*place[1:]) for place in self._places]


class StaticWork:
    """Recorded work on tensors, without differentiation through it, on static memory.

    Args:
        work: Function that maps tensors to tensors, row by row.
        tensors: Tensors of the recorded sizes; they become the static memory.
        recorder: Recorder of the graph, whose memory may be shared with other passes.
    """

    def __init__(self, work: Work, tensors: Sequence[Tensor], recorder: Recorder) -> None:
        self._recorder, self._tensors = recorder, list(tensors)
        recorder.rehearse(lambda: work(*tensors))
        self._results, self._replay = recorder.record(lambda: work(*tensors))

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the results for tensors with the same number of rows, at most as many as recorded."""
        rows = len(tensors[0])
        with torch.no_grad():
            torch._foreach_copy_([static[:rows] for static in self._tensors], list(tensors))
        self._replay()
        self._recorder.turn = next(_turns)
        return tuple(result[:rows].clone() for result in self._results)


def repetition(work: Callable[[], None], recorder: Recorder) -> Callable[[], None]:
    """Record work that has no results, and return a function that replays it."""
    recorder.rehearse(work)
    return recorder.record(work)[1]


_turns = itertools.count(1)


class Replay(Function):
    """A recorded pass as a differentiable operation.

    Its arguments are the pass, an object to keep alive until the backward pass, the batch, and the parameters.
    """

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
