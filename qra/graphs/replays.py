"""Rules for recording: when, for which sizes and states, and what happens if it is impossible."""

from __future__ import annotations

import gc
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from qra.graphs.recording import Pass, Recorder, Replay, StaticPass, StaticWork, Work, cuda_recorder, repetition

T = TypeVar("T")
DependsOn = Callable[[], tuple[Hashable, ...] | None]

SIZES = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024)
"""Batch sizes to pad to. Larger batches give the device enough work for the host to keep up."""


def padded(n: int) -> int | None:
    """Return the smallest of ``SIZES`` that holds ``n`` images, or None if none does."""
    return next((size for size in SIZES if size >= n), None)


def arithmetic(device: torch.device) -> tuple[Hashable, ...]:
    """Return the ambient settings that affect arithmetic: autocast's dtype or None, and the TensorFloat-32 settings."""
    autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    return autocast, torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()


class ReplayState:
    """Describes the state that a recorded pass through a network depends on besides tensors.

    A module may describe its own state by a method ``replay_state``, which returns None if it must not be recorded. A
    network with forward hooks is not recorded, since hooks have to run each time.

    Args:
        modules: All current modules of the network.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = tuple(modules)
        self._hooks = [hooks for m in self._modules for hooks in (m._forward_hooks, m._forward_pre_hooks)]
        states = (getattr(module, "replay_state", None) for module in self._modules)
        self._own: list[Callable[[], Hashable | None]] = [state for state in states if callable(state)]

    def __call__(self) -> tuple[Hashable, ...] | None:
        """Return the state, or None if no pass may be recorded or replayed."""
        own = [state() for state in self._own]
        if None in own or any(self._hooks):
            return None
        return tuple([module.training for module in self._modules]), *own


class Replays:
    """Base class of replays of inputs and of training: when to record, and what to do if recording fails."""

    def __init__(self, what: str, make_recorder: Callable[[torch.device], Recorder | None] = cuda_recorder) -> None:
        self._what = what
        self.make_recorder = make_recorder
        self.failed: set[Hashable] = set()
        self.recorded: dict[tuple[Hashable, ...], Any] = {}
        self._asked: Counter[tuple[Hashable, ...]] = Counter()

    def clear(self) -> None:
        """Discard all recorded passes, because their memory addresses are no longer valid."""
        self.recorded.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return type(self)(self._what, self.make_recorder)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "recorded": {}}

    def record(self, name: Hashable, device: torch.device, make: Callable[[], T]) -> T | None:
        """Record something under a name; on failure, warn once and never try that name again.

        Returns:
            The result of ``make``, or None if it failed.

        Raises:
            torch.OutOfMemoryError: If memory is insufficient; all recorded passes are then discarded.
        """
        try:
            with torch.inference_mode(False), _without_cast_cache(device), _without_collection(), _quietly():
                return make()
        except torch.OutOfMemoryError:
            self.clear()
            raise
        except Exception as reason:  # anything in a network or an attack that cannot be recorded
            if not self.failed:
                line = str(reason).strip().splitlines()[0] if str(reason).strip() else type(reason).__name__
                warnings.warn(f"{self._what} runs without CUDA graphs, more slowly: {line}", stacklevel=2)
            self.failed.add(name)
            return None


class InputReplays(Replays):
    """Replays a function of images and, if they require it, their gradient; all passes share memory.

    Sharing is safe: if another pass has used the memory since, a backward pass first repeats its forward pass.
    """

    worth = 2
    """Request from which on work is recorded, since recording takes as long as several requests."""

    _recorder: Recorder | None = None
    _repeater: Recorder | None = None
    _times = 0

    def clear(self) -> None:
        super().clear()
        self._repeater = None

    def __call__(self, function: Pass, x: Tensor, depends_on: DependsOn) -> Tensor | None:
        """Replay a function of images that processes each image independently, recording it first if need be.

        Args:
            function: The function to record if there is no suitable recording yet.
            x: Images, (N, C, H, W).
            depends_on: Function that returns everything that the result depends on besides tensors and the ambient
                arithmetic, or None if it must not be recorded.

        Returns:
            The result, or None if the caller has to run the function itself.
        """
        differentiable = x.requires_grad and torch.is_grad_enabled()

        def make(static: Sequence[Tensor], recorder: Recorder) -> StaticPass:
            return StaticPass(function, static[0], (), differentiable, recorder)

        recorded = self._find(("pass", differentiable), make, (x,), depends_on)
        if recorded is None:
            return None
        if not differentiable:
            output: Tensor = recorded.forward(x)[0]
            return output
        result: Tensor = Replay.apply(recorded, None, x)
        return result

    def work(
        self, name: Hashable, work: Work, tensors: Sequence[Tensor], depends_on: DependsOn
    ) -> tuple[Tensor, ...] | None:
        """Replay work that is not differentiated through and processes tensors row by row, recording it if need be.

        Args:
            name: Key that is equal for equal work.
            work: Function that maps the tensors to others, row by row.
            tensors: Tensors with the same number of rows.
            depends_on: Function that returns everything that the work depends on besides tensors, or None if it must
                not be recorded.

        Returns:
            The results, or None if the caller has to run the work itself.
        """

        def make(static: Sequence[Tensor], recorder: Recorder) -> StaticWork:
            return StaticWork(work, static, recorder)

        try:
            hash(name)
        except TypeError:  # settings of users' own classes may contain lists
            return None
        recorded = self._find(("work", name), make, tensors, depends_on)
        return None if recorded is None else recorded(*tensors)

    def again(self, work: Callable[[], None], reads: Sequence[Tensor], state: tuple[Hashable, ...] | None) -> None:
        """Run work that only reads and writes tensors in place; from the third time on, record and replay it.

        Args:
            work: The work.
            reads: Tensors that it reads and whose addresses may change between calls.
            state: Everything else that it depends on, or None if it must not be recorded.
        """
        self._times += 1
        if self._repeater is None and self._times >= 3:
            self._repeater = self.make_recorder(reads[0].device)
        recorder = self._repeater
        if recorder is None or state is None or "again" in self.failed:
            work()
            return
        key = ("again", tuple(tensor.data_ptr() for tensor in reads), state)
        if key not in self.recorded:
            self.recorded[key] = self.record("again", reads[0].device, lambda: repetition(work, recorder)) or work
        self.recorded[key]()

    def _find(
        self,
        name: tuple[Hashable, ...],
        make: Callable[[Sequence[Tensor], Recorder], Any],
        tensors: Sequence[Tensor],
        depends_on: DependsOn,
    ) -> Any:
        """Return the recording for such tensors, making it if need be, or None if there is none."""
        device, rows = tensors[0].device, len(tensors[0])
        size = padded(rows)
        if size is None or rows == 0 or name in self.failed:
            return None
        if self._recorder is None or not self.recorded:
            self._recorder = self.make_recorder(device)
        state = None if self._recorder is None else depends_on()
        if self._recorder is None or state is None:
            return None
        kinds = tuple((tensor.shape[1:], tensor.dtype) for tensor in tensors)
        key = (*name, size, device, kinds, arithmetic(device), state)
        if key not in self.recorded:
            self._asked[key] += 1
            if self._asked[key] < self.worth:
                return None
            static = [torch.zeros((size, *t.shape[1:]), dtype=t.dtype, device=device) for t in tensors]
            recorder = self._recorder
            recorded = self.record(name, device, lambda: make(static, recorder))
            if recorded is None:
                return None
            self.recorded[key] = recorded
        return self.recorded[key]


@contextmanager
def _without_cast_cache(device: torch.device) -> Iterator[None]:
    """Disable autocast's weight cache, if autocast is on, since a cached cast would be recorded as a constant."""
    if not torch.is_autocast_enabled(device.type):
        yield
        return
    with torch.autocast(device.type, torch.get_autocast_dtype(device.type), cache_enabled=False):
        yield


@contextmanager
def _without_collection() -> Iterator[None]:
    """Disable garbage collection, which might free device memory and so invalidate a recording."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppress warnings about streams, which differ during recording."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
