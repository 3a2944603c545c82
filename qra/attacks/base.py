"""What every attack promises, and the guard that keeps the promise."""

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
"""What the ``y`` of an attack is: classes to leave, (N,), classes to reach, (N,), or logits to leave behind, (N, C)."""


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Run ``model`` in eval mode with gradients on, wherever the caller stands; then put every mode back.

    Each submodule gets its own flag back, so a frozen part of a network in training stays frozen. Gradients work inside
    ``torch.no_grad`` and ``torch.inference_mode`` too.
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
        if module.training != training:  # an attribute of a module takes long to set
            module.training = training


def replayed(model: nn.Module, work: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return ``work(model, *tensors)``, of which a network that has a method ``replay`` may make one launch on a GPU.

    Args:
        model: The network.
        work: A frozen dataclass, since equal work is recorded once. It treats each row by itself, and depends on its
            settings and the tensors alone.
        tensors: Tensors of equally many rows.
    """
    run = getattr(model, "replay", None)
    return work(model, *tensors) if run is None else run(work, *tensors)


def in_parts(model: nn.Module, work: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return ``work(model, *tensors)``, in parts where a network that knows how ran out of memory; never recorded."""
    parts = getattr(model, "parts", None)
    return parts(partial(work, model), *tensors) if isinstance(parts, Parts) else work(model, *tensors)


def _plain(tensor: Tensor) -> Tensor:
    """The same values, contiguous, without a graph, usable with gradients."""
    return (tensor.clone() if tensor.is_inference() else tensor.detach()).contiguous()


_called: WeakValueDictionary[int, Attack] = WeakValueDictionary()
"""Attacks that were called before, by their identity: they are frozen, and equal ones may meet other images."""


_LINF: Norm = "linf"


class Attack(ABC):
    """Search near images for ones that a network gets wrong.

    An attack is frozen settings; a subclass is a frozen dataclass that writes :meth:`perturb`. Calling it leaves the
    network as it was: parameters, their ``grad`` and ``requires_grad``, buffers, train or eval mode of every submodule.
    It leaves the global random generators alone too. An evaluation calls :meth:`run`, so that the network itself judges
    what was found on the network that it searches on. There, an attack says its ball by the fields ``eps``, in pixel
    units, and ``norm``.
    """

    # not annotated: an annotation would have to be understood in the module of each subclass
    norm = _LINF
    """Norm of the ball."""

    takes_gradients = True
    """Whether it differentiates the network."""

    finds_nearest = False
    """Whether it looks for the nearest image that breaks an example, instead of any in the ball; it then has a field
    ``eps``."""

    searches_unrounded = False
    """Whether it searches on the network without the rounding of activations, too."""

    needs_fixed_chunks = False
    """Whether the result of an example depends on the examples around it, so that evaluations give the attack the same
    ones each time."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, index: Tensor | None = None, epoch: int = 0
    ) -> Tensor:
        """Attack a batch.

        Args:
            model: A network that takes pixels in [0, 1] and returns logits; not a wrapper for parallel training.
            x: Images in [0, 1], floating point, (N, C, H, W).
            y: What :attr:`aim` says.
            index: Positions of the images in their data set, (N,), which choose the random draws; positions in the
                batch if left out.
            epoch: Chooses the random draws too.

        Returns:
            Images in [0, 1] near ``x``, of its shape and type, contiguous, without a graph.

        Raises:
            ValueError: If ``x`` is not floating point or leaves [0, 1], ``y`` or ``index`` has another length than
                ``x``, labels are no whole numbers or none of the classes, or what :meth:`perturb` returned are no such
                images. On a GPU values are looked at in the first call only.
        """
        if not x.is_floating_point():
            raise ValueError(f"x is {x.dtype}: an attack needs floating-point pixels in [0, 1] (divide bytes by 255)")
        if y.ndim == 1 and y.is_floating_point():
            raise ValueError(f"y is {y.dtype}: labels are whole numbers")
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

    @property
    def aim(self) -> Aim:
        """What ``y`` is."""
        return "labels"

    @property
    def title(self) -> str:
        """Its name and its unusual settings, for people."""
        return type(self).__name__

    @property
    def key(self) -> str:
        """The same as a word for names of outcomes and files."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()

    @property
    def standard(self) -> str:
        """The published protocol whose settings it has, such as AutoAttack; empty if none."""
        return ""

    def is_fooled(self, logits: Tensor, y: Tensor) -> Tensor:
        """Whether the attack has reached its aim, for each example: (N, classes) and ``y`` to bool (N,)."""
        if self.aim == "targets":
            return prediction(logits) == y
        return is_wrong(logits, y if y.ndim == 1 else y.argmax(1))

    def members(self) -> dict[str, Attack]:
        """The attacks that it consists of, by name, in their order, each working on what the ones before it left."""
        return {}

    def prefixes(self) -> list[Attack]:
        """Attacks of a name of their own that its first members are, so that one evaluation says what each leaves."""
        return []

    def in_chunk(self, number: int) -> Attack:
        """The attack as it runs on a chunk of examples: one that draws for chunks draws something else for each."""
        return self

    def passes(self, classes: int) -> PassCount:
        """How often it runs the network for an example that is not broken; for progress bars and dry runs only."""
        return PassCount(1)

    def work(self, classes: int) -> float:
        """What that costs, in forward passes."""
        return self.passes(classes).work

    def unsuited(self, state: AttackState) -> str | None:
        """Why it does not suit the network or its examples; None if it does."""
        return None

    def run(self, state: AttackState) -> None:
        """Break what is left of some examples; the networks are in eval mode and gradients are on.

        Unless a subclass does better, :meth:`perturb` is called once and its images are judged.

        Raises:
            ValueError: If what it returns is not of the shape of the images.
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
            raise ValueError(f"{name} returned {what}: perturb is to return images of floating point")
        if x_adv.shape != x.shape:
            raise ValueError(f"{name} returned images {tuple(x_adv.shape)} for {tuple(x.shape)}")

    @abstractmethod
    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Find the adversarial images.

        The network is in eval mode and gradients are on. Take them with ``torch.autograd.grad`` for the input, never
        with ``backward``, which would add to the parameters' gradients.

        Args:
            model: The network.
            x: Images in [0, 1], contiguous, (N, C, H, W); not to be written to.
            y: What :attr:`aim` says, as the caller gave it.
            index: Positions of the images in their data set, (N,), on the device of ``x``.
            epoch: The epoch, as the caller gave it.

        Returns:
            A new tensor like ``x``; a graph on it is cut off.
        """


class EvaluationAttack(Attack):
    """An attack that drops an example from its work with the first image that breaks it.

    A subclass is a frozen dataclass that writes :meth:`run`, which judges its successes before it returns. It runs in
    the precision of the images, without regard to autocast. An example that was not broken gets its own image back.
    """

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor, epoch: int) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            state = AttackState(model, x, y, index=index, epoch=epoch, is_fooled=self.is_fooled)
            self.run(state)
        return state.x_adv

    @abstractmethod
    def run(self, state: AttackState) -> None: ...
