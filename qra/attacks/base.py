"""What every attack promises, and the guard that keeps the promise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

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
            ValueError: If ``x`` is not floating point, or ``y`` or ``index`` has another length than ``x``.
        """
        if not x.is_floating_point():
            raise ValueError(f"x is {x.dtype}: an attack needs floating-point pixels in [0, 1] (divide bytes by 255)")
        index = torch.arange(len(x)) if index is None else index
        if not len(x) == len(y) == len(index):
            raise ValueError(f"x, y and index differ in length: {len(x)}, {len(y)} and {len(index)}")
        with untouched(model):
            return _plain(self.perturb(model, _plain(x), _plain(y), _plain(index.to(x.device)), epoch))

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
