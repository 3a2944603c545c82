"""Short timing trials of passes through a network and of training steps."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from qra.attacks import PGD, PassCount
from qra.data import ImageDataModule, Part
from qra.errors import reason_of
from qra.modules import ImageClassifier, RobustTransfer
from qra.precision import float32
from qra.quant import FrozenNetwork, freeze
from qra.timing import alternate
from qra.types import Batch

_MOMENT = 0.3
"""Estimated duration, in seconds, above which no larger batch is tried."""
_STEPS = 2
"""Number of gradients in one trial."""
_ROUNDS = 2
"""Number of timed runs of a batch, after one warm-up run; the fastest counts."""
_CHUNK = 250
"""Maximum number of images in a trial, the default chunk size of evaluations."""


class Speed(NamedTuple):
    """Time per image, in seconds."""

    forward: float
    gradient: float
    """Time of a forward and a backward pass."""

    def of(self, passes: PassCount) -> float:
        """Return the time, in seconds, of an image with the given passes."""
        return passes.forward * self.forward + passes.backward * max(0.0, self.gradient - self.forward)


class Step(NamedTuple):
    """Passes and time per image of a training step."""

    passes: PassCount
    seconds: float


class Probe:
    """Times networks and training steps, each kind once.

    Attributes:
        seconds: Total duration of all trials, in seconds.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._known: dict[Hashable, Any] = {}

    def speed(self, network: nn.Module, data: ImageDataModule, device: torch.device) -> Speed:
        """Return how fast attacks search on a network.

        Args:
            network: Network to be attacked, on the device and in eval mode.
            data: Data module that has been set up.
            device: Device of the network.
        """
        found: Speed = self._once((_kind(network), device), lambda: _speed(freeze(network), data, device))
        return found

    def step(self, module: ImageClassifier, data: ImageDataModule, trainer: Trainer) -> Step:
        """Return how long a training step takes, and how often it runs a network.

        Args:
            module: Copy of the module to be trained, on the CPU; it is trained and moved.
            data: Data module that has been set up.
            trainer: Trainer that has not started.

        Raises:
            ValueError: If the training step fails.
        """
        key = _kind(module.network), _method(module), data.batch_size, trainer.precision, trainer.strategy.root_device
        found: Step = self._once(key, lambda: _step(module, data, trainer))
        return found

    def _once(self, key: Hashable, measured: Callable[[], Any]) -> Any:
        if key not in self._known:
            start = time.perf_counter()
            self._known[key] = measured()
            self.seconds += time.perf_counter() - start
        return self._known[key]


def _kind(network: nn.Module) -> tuple[str, ...]:
    """Return what a network's speed depends on: its modules and the classes of its quantizers, but not bit widths."""
    return tuple(
        f"{type(module).__name__}({module.extra_repr()}) {type(getattr(module, 'settings', None)).__name__}"
        for module in network.modules()
    )


def _method(module: ImageClassifier) -> str:
    """Return what the cost of a training step depends on besides the network: the method's class and settings."""
    settings = {k: v for k, v in vars(module).items() if not k.startswith("_") and k != "scheme"}
    told = {k: v for k, v in settings.items() if dataclasses.is_dataclass(v) or isinstance(v, bool | int | float)}
    return f"{type(module).__qualname__} {told}"


def _speed(frozen: FrozenNetwork, data: ImageDataModule, device: torch.device) -> Speed:
    attack = PGD(steps=_STEPS)
    images = _images(data, "test", device)

    def forward(batch: Batch) -> None:
        with torch.no_grad():
            frozen(batch.x)

    with torch.inference_mode(False), float32(device):
        return Speed(
            _seconds(forward, images, device),
            _seconds(lambda batch: attack(frozen, batch.x, batch.y), images, device) / _STEPS,
        )


def _step(module: ImageClassifier, data: ImageDataModule, trainer: Trainer) -> Step:
    device = trainer.strategy.root_device
    run, some = _trained(module, trainer), _images(data, "train", torch.device("cpu"))(2)
    try:
        for _ in range(2):
            run(some)  # not counted: copies are made here and, after the first refresh, compared
    except Exception as reason:  # a user's training method may raise anything
        name = type(module).__name__
        raise ValueError(f"the training step cannot be tried: {name}: {reason_of(reason)}") from None
    with _Counted(module.network) as count:
        run(some)
    module.to(device)
    if isinstance(module, RobustTransfer):
        module.teacher.to(device)
    return Step(count.passes.times(1 / 2), _seconds(_trained(module, trainer), _images(data, "train", device), device))


def _trained(module: ImageClassifier, trainer: Trainer) -> Callable[[Batch], None]:
    optimizer = module.make_optimizer(module.parameter_groups())
    module.train()

    def run(batch: Batch) -> None:
        optimizer.zero_grad()
        with trainer.precision_plugin.train_step_context(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*self.log")  # there is no training to log of
            loss = module.training_step(batch, 0)
        torch.autograd.backward(loss)
        optimizer.step()

    return run


class _Counted:
    """Context in which images are counted that pass through a network, or through attack-time copies of any."""

    def __init__(self, network: nn.Module) -> None:
        self.passes = PassCount(0)
        self._network, self._depth = network, 0

    def __enter__(self) -> _Counted:
        self._hooks = register_module_forward_pre_hook(self._begin), register_module_forward_hook(self._end)
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _counts(self, module: nn.Module) -> bool:
        return module is self._network or isinstance(module, FrozenNetwork)

    def _begin(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._depth += self._counts(module)

    def _end(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        self._depth -= self._counts(module)
        if self._counts(module) and self._depth == 0:
            self._add(PassCount(len(args[0])))
            if output.requires_grad:
                output.register_hook(self._add_backward)  # type: ignore[no-untyped-call]

    def _add_backward(self, gradient: Tensor) -> None:
        self._add(PassCount(0, len(gradient)))

    def _add(self, passes: PassCount) -> None:
        self.passes = self.passes.plus(passes)


def _images(data: ImageDataModule, part: Part, device: torch.device) -> Callable[[int], Batch]:
    """Return a function that makes a batch of the first images of a part, up to a given number or the batch size."""
    indices = data.train_indices[: data.batch_size] if part == "train" else torch.arange(data.size(part))[:_CHUNK]
    return lambda count: data.batch(part, indices[:count], device)


def _seconds(run: Callable[[Batch], object], images: Callable[[int], Batch], device: torch.device) -> float:
    """Return the time per image, in seconds, measured on batches that grow until one takes long enough."""
    count = 4
    while True:
        batch = images(count)
        (timing,) = alternate({"": lambda: run(batch)}, _ROUNDS, device).values()  # noqa: B023
        seconds = min(timing.seconds)  # interference by other processes now does not predict that of the coming hours
        if 4 * seconds > _MOMENT or len(batch.y) < count:
            return seconds / len(batch.y)
        count *= 4
