"""What every attack promises, and the guard that keeps the promise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from qra.parts import Parts


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Run ``model`` in eval mode with gradients on, wherever the caller stands; then put every mode back.

    Each submodule gets its own flag back, so a frozen part of a network in training stays frozen. Gradients work inside
    ``torch.no_grad`` and ``torch.inference_mode`` too.
    """
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training


def replayed(model: nn.Module, work: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return ``work(model, *tensors)``, of which a network that has a method ``replay`` may make one launch on a GPU.

    Args:
        model: The network.
        work: A frozen dataclass, since equal work is recorded once. It treats each row by itself, and depends on its
            settings and the tensors alone.
        tensors: Of equally many rows.
    """
    run = getattr(model, "replay", None)
    return work(model, *tensors) if run is None else run(work, *tensors)


def in_parts(model: nn.Module, work: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return ``work(model, *tensors)``, in parts where a network that knows how ran out of memory; never recorded."""
    parts = getattr(model, "parts", None)
    return parts(partial(work, model), *tensors) if isinstance(parts, Parts) else work(model, *tensors)


def patience(device: torch.device) -> int:
    """Steps between two looks at which examples are broken, and can be dropped.

    The host would wait for a GPU at each look, and leave it without work afterwards; a CPU gains by each example less.
    """
    return 1 if device.type == "cpu" else 8


def _plain(tensor: Tensor) -> Tensor:
    """The same values, contiguous, without a graph, usable with gradients."""
    return (tensor.clone() if tensor.is_inference() else tensor.detach()).contiguous()


def check_images(x: Tensor, y: Tensor) -> None:
    """Refuse pixels outside of [0, 1], and labels below 0.

    Args:
        x: Images, (N, C, H, W).
        y: Labels (N,), or something else, which is not looked at.

    Raises:
        ValueError: If a pixel or label is out of range.
    """
    if len(x) == 0:
        return
    low, high = (float(end) for end in x.detach().aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"pixels run from {low:g} to {high:g}: an attack needs them in [0, 1] (divide bytes by 255, and make "
            "normalization the network's first layer)"
        )
    if _are_labels(y) and int(y.min()) < 0:
        raise ValueError(f"labels run from {int(y.min())}: they are numbers of classes, from 0")


def check_classes(largest: int, logits: Any) -> None:
    """Refuse labels that are none of a network's classes.

    Args:
        largest: The largest label.
        logits: What the network gave, (M, classes).

    Raises:
        ValueError: If a label is out of range, or there are no logits.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ValueError("the network returns no logits (N, classes)")
    if largest >= logits.shape[1]:
        raise ValueError(f"labels run to {largest}, but the network has the classes 0 to {logits.shape[1] - 1}")


def largest_label(y: Tensor) -> int:
    """The largest of labels (N,); -1 if there are none, or ``y`` is something else."""
    return int(y.max()) if _are_labels(y) and len(y) else -1


def _are_labels(y: Tensor) -> bool:
    return y.ndim == 1 and not y.is_floating_point()


_called: WeakValueDictionary[int, Attack] = WeakValueDictionary()
"""Attacks that were called before, by their identity: they are frozen, and equal ones may meet other images."""


class Attack(ABC):
    """Search near images for ones that a network gets wrong.

    An attack is frozen settings; a subclass is a frozen dataclass that writes :meth:`perturb`. Calling it leaves the
    network as it was: parameters, their ``grad`` and ``requires_grad``, buffers, train or eval mode of every submodule.
    It leaves the global random generators alone too.
    """

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, index: Tensor | None = None, epoch: int = 0
    ) -> Tensor:
        """Attack a batch.

        Args:
            model: A network that takes pixels in [0, 1] and returns logits; not a wrapper for parallel training.
            x: Images in [0, 1], floating point, (N, C, H, W).
            y: Labels (N,), or what else the attack is aimed at.
            index: Positions of the images in their data set, (N,), which choose the random draws; positions in the
                batch if left out.
            epoch: Chooses the random draws too.

        Returns:
            Images in [0, 1] near ``x``, of its shape and type, contiguous, without a graph.

        Raises:
            ValueError: If ``x`` is not floating point or leaves [0, 1], ``y`` or ``index`` has another length than
                ``x``, or a label is none of the classes. On a GPU values are looked at in the first call only.
        """
        if not x.is_floating_point():
            raise ValueError(f"x is {x.dtype}: an attack needs floating-point pixels in [0, 1] (divide bytes by 255)")
        index = torch.arange(len(x)) if index is None else index
        if not len(x) == len(y) == len(index):
            raise ValueError(f"x, y and index differ in length: {len(x)}, {len(y)} and {len(index)}")
        with untouched(model), self._checking(model, x, y):
            return _plain(self.perturb(model, _plain(x), _plain(y), _plain(index.to(x.device)), epoch))

    @contextmanager
    def _checking(self, model: nn.Module, x: Tensor, y: Tensor) -> Iterator[None]:
        """Check pixels and labels in the first call, and pixels on the processor, where it costs no wait, in each."""
        first = _called.get(id(self)) is not self
        if first or x.device.type == "cpu":
            check_images(x, y)
        if not first:
            yield
            return
        _called[id(self)] = self
        largest = largest_label(y)  # looked at here, for a pass that is recorded cannot wait for the device

        def check(module: nn.Module, args: Any, logits: Any) -> None:
            hook.remove()
            check_classes(largest, logits)

        hook = model.register_forward_hook(check)
        try:
            yield
        finally:
            hook.remove()

    @abstractmethod
    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Find the adversarial images.

        The network is in eval mode and gradients are on. Take them with ``torch.autograd.grad`` for the input, never
        with ``backward``, which would add to the parameters' gradients.

        Args:
            model: The network.
            x: Images in [0, 1], contiguous, (N, C, H, W); not to be written to.
            y: As given by the caller.
            index: Positions of the images in their data set, (N,), on the device of ``x``.
            epoch: As given by the caller.

        Returns:
            A new tensor like ``x``; a graph on it is cut off.
        """
