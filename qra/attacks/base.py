"""Base classes of attacks, and the context manager that leaves an attacked network unchanged."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from qra.attacks.inputs import check_classes, check_images, is_wrong, largest_label
from qra.attacks.pass_count import PassCount
from qra.attacks.state import AttackState
from qra.losses import prediction
from qra.parts import Parts
from qra.types import Norm

Aim = Literal["labels", "targets", "logits"]
"""Meaning of an attack's ``y``.

``labels`` are the true classes, (N,), ``targets`` the classes to reach, (N,), and ``logits`` the logits to move away
from, (N, C).
"""
_SHAPES = {"labels": "labels (N,)", "targets": "target classes (N,)", "logits": "reference logits (N, C)"}


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in eval mode and enable gradients inside the block; restore every submodule's mode afterwards.

    Each submodule gets its own flag back, so a frozen part of a network in training stays in eval mode. Gradients are
    enabled even if the caller is inside ``torch.no_grad`` or ``torch.inference_mode``.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        _set_modes([(module, False) for module, _ in modes])
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        _set_modes(modes)


def _set_modes(modes: list[tuple[nn.Module, bool]]) -> None:
    for module, training in modes:
        if module.training != training:  # setting an attribute of a module is slow
            module.training = training


def replayed(model: nn.Module, work: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return ``work(model, *tensors)``, which a network with a method ``replay`` may run as one CUDA graph launch.

    Args:
        model: The network.
        work: A callable frozen dataclass; equal instances share one recording. It must process each row independently
            and depend only on its fields and the tensors.
        tensors: Tensors with the same number of rows.
    """
    run = getattr(model, "replay", None)
    return work(model, *tensors) if run is None else run(work, *tensors)


def in_parts(model: nn.Module, work: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return ``work(model, *tensors)``, never recorded, in parts if the network supports that and memory is short."""
    parts = getattr(model, "parts", None)
    return parts(partial(work, model), *tensors) if isinstance(parts, Parts) else work(model, *tensors)


def _plain(tensor: Tensor) -> Tensor:
    """Return the same values, contiguous, detached, and usable in autograd (not an inference tensor)."""
    return (tensor.clone() if tensor.is_inference() else tensor.detach()).contiguous()


_called: WeakValueDictionary[int, Attack] = WeakValueDictionary()
"""Attacks called before, by identity rather than equality, since equal attacks may receive different images."""


_LINF: Norm = "linf"


class Attack(ABC):
    """Base class of attacks, which search near images for ones that a network misclassifies.

    An attack is a set of frozen settings: a subclass is a frozen dataclass that implements :meth:`perturb`. Calling an
    attack leaves the network unchanged: its parameters with their ``grad`` and ``requires_grad``, its buffers, and the
    train or eval mode of every submodule. The global random generators are not touched either. An attack of your own
    keeps this if it takes gradients and draws as :meth:`perturb` says. An evaluation calls :meth:`run` instead, so that
    the network itself judges the images found on the network that is searched. For evaluations, an attack describes its
    ball by the fields ``eps``, in pixel units, and ``norm``.
    """

    # not annotated, because the annotation would have to resolve in the module of each subclass
    norm = _LINF
    """Norm of the ball."""

    takes_gradients = True
    """Whether the attack differentiates the network."""

    finds_nearest = False
    """Whether the attack looks for the nearest adversarial image, not any in the ball; it then has a field ``eps``."""

    searches_unrounded = False
    """Whether the attack also searches on the network without the rounding of activations."""

    needs_fixed_chunks = False
    """Whether an example's result depends on the others in its chunk; evaluations then always form the same chunks."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, index: Tensor | None = None, epoch: int = 0
    ) -> Tensor:
        """Attack a batch.

        Args:
            model: A network that takes pixels in [0, 1] and returns logits; not a wrapper for parallel training.
            x: Images in [0, 1], floating point, (N, C, H, W).
            y: Labels, target classes or logits, as given by :attr:`aim`.
            index: Positions of the images in their data set, (N,), which determine the random draws. Defaults to the
                positions in the batch.
            epoch: Epoch, which also determines the random draws.

        Returns:
            Images in [0, 1] near ``x``, of the same shape and dtype, contiguous and detached.

        Raises:
            ValueError: If ``x`` is not floating point or has pixels outside [0, 1], if ``y`` or ``index`` differs in
                length from ``x``, if ``y`` does not have the shape of its aim, if labels are not integers or not among
                the network's classes, or if :meth:`perturb` does not return floating-point images of the shape of
                ``x``. The upper bound of labels is checked in the first call only; on a GPU, so are the ranges of
                pixels and the lower bound of labels.
        """
        if not x.is_floating_point():
            raise ValueError(f"x is {x.dtype}: an attack needs floating-point pixels in [0, 1] (divide bytes by 255)")
        if y.ndim != (2 if self.aim == "logits" else 1):
            raise ValueError(f"y has the shape {tuple(y.shape)}: {self.title} needs {_SHAPES[self.aim]}")
        if y.ndim == 1 and y.is_floating_point():
            raise ValueError(f"y is {y.dtype}: labels must be integers")
        y = y.long() if y.ndim == 1 else y
        index = torch.arange(len(x)) if index is None else index
        if not len(x) == len(y) == len(index):
            raise ValueError(f"x, y and index differ in length: {len(x)}, {len(y)} and {len(index)}")
        with untouched(model), self._checking(model, x, y):
            x = _plain(x)
            x_adv = self.perturb(model, x, _plain(y), _plain(index.to(x.device)), epoch)
            self._check_returned(x_adv, x)
            return _plain(x_adv).to(x)

    @contextmanager
    def _checking(self, model: nn.Module, x: Tensor, y: Tensor) -> Iterator[None]:
        """Check images and labels in the first call, and on the CPU, where it needs no synchronization, in every call.

        That labels are among the network's classes is checked in the first call only.
        """
        first = _called.get(id(self)) is not self
        if first or x.device.type == "cpu":
            check_images(x, y)
        if not first:
            yield
            return
        _called[id(self)] = self
        largest = largest_label(y)  # read here, since a pass under recording cannot synchronize

        def check(module: nn.Module, args: Any, logits: Any) -> None:
            hook.remove()
            check_classes(largest, logits)

        hook = model.register_forward_hook(check)
        try:
            yield
        finally:
            hook.remove()

    @property
    def aim(self) -> Aim:
        """Meaning of ``y``, which are labels, target classes or logits."""
        return "labels"

    @property
    def title(self) -> str:
        """Display name, with the settings that differ from the usual ones."""
        return type(self).__name__

    @property
    def key(self) -> str:
        """Identifier used in the names of outcomes and files."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()

    @property
    def standard(self) -> str:
        """Name of the published protocol that the settings match, such as AutoAttack; empty if there is none."""
        return ""

    def is_fooled(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return whether the attack has reached its aim on each example: logits (N, classes) and ``y`` to bool (N,)."""
        if self.aim == "targets":
            return prediction(logits) == y
        return is_wrong(logits, y if y.ndim == 1 else y.argmax(1))

    def members(self) -> dict[str, Attack]:
        """Return a cascade's attacks by name, each run on the survivors of those before; empty for other attacks."""
        return {}

    def prefixes(self) -> list[Attack]:
        """Return known attacks that the first members form; an evaluation reports their results as well."""
        return []

    def in_chunk(self, number: int) -> Attack:
        """Return the attack to run on a chunk of examples; one that draws per chunk uses a different seed for each."""
        return self

    def passes(self, classes: int) -> PassCount:
        """Return the passes that an unbroken example takes; used only for progress bars and dry runs."""
        return PassCount(1)

    def work(self, classes: int) -> float:
        """Return the cost of :meth:`passes`, in forward passes."""
        return self.passes(classes).work

    def unsuited(self, state: AttackState) -> str | None:
        """Return why the attack does not suit the network or its examples, or None if it does."""
        return None

    def run(self, state: AttackState) -> None:
        """Attack the survivors of a state, whose networks are in eval mode and gradients are enabled.

        By default, :meth:`perturb` is called once and its images are judged.

        Raises:
            ValueError: If :meth:`perturb` does not return floating-point images of the right shape.
        """
        left = state.survivors()
        if len(left):
            x = state.x[left]
            x_adv = self.perturb(state.search, x, state.y[left], state.index[left], state.epoch)
            self._check_returned(x_adv, x)
            state.try_out(left, _plain(x_adv).to(x))
        state.on_step(self.work(state.classes))

    def _check_returned(self, x_adv: Any, x: Tensor) -> None:
        name = type(self).__name__
        if not isinstance(x_adv, Tensor) or not x_adv.is_floating_point():
            what = x_adv.dtype if isinstance(x_adv, Tensor) else f"a {type(x_adv).__name__}"
            raise ValueError(f"{name} returned {what}: perturb must return floating-point images")
        if x_adv.shape != x.shape:
            raise ValueError(f"{name} returned images of shape {tuple(x_adv.shape)} for inputs of {tuple(x.shape)}")

    @abstractmethod
    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Find adversarial images.

        The network is in eval mode and gradients are enabled. Use ``torch.autograd.grad`` with respect to the input,
        never ``backward``, which would accumulate into the parameters' gradients. Draw random numbers by a
        :class:`qra.attacks.Start` or ``qra.noise``, never from the global generators.

        Args:
            model: The network.
            x: Images in [0, 1], contiguous, (N, C, H, W); must not be modified in place.
            y: The caller's labels, target classes or logits, see :attr:`aim`.
            index: Positions of the images in their data set, (N,), on the device of ``x``.
            epoch: The caller's epoch.

        Returns:
            A new tensor like ``x``; it is detached afterwards.
        """


class EvaluationAttack(Attack):
    """Base class of attacks that stop working on an example at the first image that breaks it.

    A subclass is a frozen dataclass that implements :meth:`run`, which must judge its successes before it returns. When
    called, the attack runs in the precision of the images, with autocast disabled, and returns the clean image for an
    example that it did not break.
    """

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor, epoch: int) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            state = AttackState(model, x, y, index=index, epoch=epoch, is_fooled=self.is_fooled)
            self.run(state)
        return state.x_adv

    @abstractmethod
    def run(self, state: AttackState) -> None: ...
