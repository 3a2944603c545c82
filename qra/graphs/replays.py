"""What is recorded when, for which sizes and states, and what happens where it cannot be."""

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
"""What batches are padded to. Beyond, the device has enough to do for the host to keep up."""


def padded(n: int) -> int | None:
    """The least of ``SIZES`` that holds ``n`` images; None if none does."""
    return next((size for size in SIZES if size >= n), None)


def arithmetic(device: torch.device) -> tuple[Hashable, ...]:
    """What the ambient settings make of convolutions and products: autocast's type, or None, and TensorFloat-32."""
    autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    return autocast, torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()


class ReplayState:
    """Says what a recorded pass through a network depends on besides tensors.

    A module may say what it depends on by a method ``replay_state``, which returns None if it must not be recorded.
    Hooks have to run each time.

    Args:
        modules: All modules of the network, as they are now.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = tuple(modules)
        self._hooks = [hooks for m in self._modules for hooks in (m._forward_hooks, m._forward_pre_hooks)]
        states = (getattr(module, "replay_state", None) for module in self._modules)
        self._own: list[Callable[[], Hashable | None]] = [state for state in states if callable(state)]

    def __call__(self) -> tuple[Hashable, ...] | None:
        """The state, or None if no pass may be recorded or replayed."""
        own = [state() for state in self._own]
        if None in own or any(self._hooks):
            return None
        return tuple([module.training for module in self._modules]), *own


class Replays:
    """What replays of inputs and of training have in common: when to record, and what to do where that fails."""

    def __init__(self, what: str, make_recorder: Callable[[torch.device], Recorder | None] = cuda_recorder) -> None:
        self._what = what
        self.make_recorder = make_recorder
        self.failed: set[Hashable] = set()
        self.recorded: dict[tuple[Hashable, ...], Any] = {}
        self._asked: Counter[tuple[Hashable, ...]] = Counter()

    def clear(self) -> None:
        """Forget all recorded passes, as their addresses do not hold any more."""
        self.recorded.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return type(self)(self._what, self.make_recorder)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "recorded": {}}

    def record(self, name: Hashable, device: torch.device, make: Callable[[], T]) -> T | None:
        """Record something, or give it up for good, under its name, and say so once."""
        try:
            with torch.inference_mode(False), _without_cast_cache(device), _without_collection(), _quietly():
                return make()
        except torch.OutOfMemoryError:
            self.clear()
            raise
        except Exception as reason:  # all that a network or an attack does that cannot be recorded
            if not self.failed:
                line = str(reason).strip().splitlines()[0] if str(reason).strip() else type(reason).__name__
                warnings.warn(f"{self._what} runs without CUDA graphs, more slowly: {line}", stacklevel=2)
            self.failed.add(name)
            return None


class InputReplays(Replays):
    """Replays a function of images and, where they take one, their gradient; all its passes share their memory.

    Sharing is safe: a backward pass whose memory another pass has used since repeats its forward pass first.
    """

    worth = 2
    """Number of the request from which on work is recorded, which takes as long as some requests."""

    _recorder: Recorder | None = None
    _repeater: Recorder | None = None
    _times = 0

    def clear(self) -> None:
        super().clear()
        self._repeater = None

    def __call__(self, function: Pass, x: Tensor, depends_on: DependsOn) -> Tensor | None:
        """Run a function of images that treats each by itself.

        Args:
            function: Used where nothing suitable was recorded yet.
            x: Images, (N, C, H, W).
            depends_on: Says what the function depends on besides tensors and the ambient arithmetic; None where it must
                not be recorded.

        Returns:
            Its result, or None where it has to be run as it is.
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
        """Run work that nothing is differentiated through, on tensors of equally many rows, row by row.

        Args:
            name: Equal for equal work.
            work: Maps the tensors to others, row by row.
            tensors: What it works on.
            depends_on: Function that says what the work depends on besides tensors; None where it must not be recorded.

        Returns:
            The results, or None where it has to be run as it is.
        """

        def make(static: Sequence[Tensor], recorder: Recorder) -> StaticWork:
            return StaticWork(work, static, recorder)

        try:
            hash(name)
        except TypeError:  # settings of others may hold lists
            return None
        recorded = self._find(("work", name), make, tensors, depends_on)
        return None if recorded is None else recorded(*tensors)

    def again(self, work: Callable[[], None], reads: Sequence[Tensor], state: tuple[Hashable, ...] | None) -> None:
        """Do work that only reads and writes tensors which stay where they are; from the third time on, recorded.

        Args:
            work: What to do.
            reads: The tensors that might be elsewhere next time.
            state: What it depends on besides them; None where it must not be recorded.
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
        """What was recorded for such tensors, or is now; None where nothing can be."""
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
    """Autocast as it is, but casts of weights are made again: a cached one would be recorded as a constant."""
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
def _quietly() -> Iterator[None]:
    """No advice on streams, which are others while something is recorded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
