"""The twin of an integer program: an ordinary network that computes the same function, for attacks and evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qra.deploy.bounds import check, ranges, shapes, sums
from qra.deploy.ops import (
    EXACT,
    IMAGE,
    LOGITS,
    Combine,
    Convolution,
    Flatten,
    Linear,
    Op,
    Real,
    Requantize,
    Shortcut,
    WindowMax,
    WindowSum,
)
from qra.deploy.program import TAMPERED, TWIN, Program, assemble, digest
from qra.precision import float32
from qra.quant.activations import ActivationQuantizer, State
from qra.quant.fused import widened
from qra.quant.grid import Grid
from qra.quant.layers import ActivationFakeQuantizer
from qra.quant.rounding import GradientMode, straight_through

Way = Literal["plain", "unfolded", "float64"]
"""How sums of products are computed exactly: directly, as one matrix product, or in double precision."""


@dataclass(frozen=True)
class Codes(ActivationQuantizer):
    """Rounding to integers from ``low`` to ``high``, for values in units of steps.

    Args:
        low: Smallest code.
        high: Largest code.
        zero_point: Code that stands for zero.
    """

    learned: ClassVar[bool] = False
    replaces_relu: ClassVar[bool] = False
    replayable: ClassVar[bool] = True

    low: int
    high: int
    zero_point: int = 0

    def start(self, bit_width: int) -> dict[str, float]:
        return {}

    def quantize(self, x: Tensor, bit_width: int, state: State, gradient: GradientMode) -> Tensor:
        low, high = self.low - self.zero_point, self.high - self.zero_point
        rounded = x.round()
        codes = rounded.clamp(low, high) + self.zero_point
        return codes if gradient == "hard" else straight_through(self._carrier(x, gradient == "ste_soft"), codes)

    def grid(self, bit_width: int, state: State, dtype: torch.dtype = torch.float32) -> Grid:
        if self.zero_point:
            raise ValueError("codes with a zero point are not multiples of their step")
        return Grid(torch.ones((), dtype=dtype), range(self.low, self.high + 1))

    def _carrier(self, x: Tensor, soft: bool) -> Tensor:
        """Return what gradients pass through. Without a zero point, the range is symmetric, half a step higher."""
        if soft:
            return x
        beyond = 0.0 if self.zero_point else 0.5
        ends = self.low - self.zero_point + beyond, self.high - self.zero_point + beyond
        return x.clamp(*widened(ends, torch.float32))  # the largest image value lies at an end, up to rounding


@dataclass(frozen=True)
class UnsignedCodes(Codes):
    """Rounding to integers from 0, in place of a ReLU.

    Args:
        low: Smallest code: 0.
        high: Largest code.
        zero_point: Code that stands for zero: 0.
    """

    replaces_relu: ClassVar[bool] = True

    def _carrier(self, x: Tensor, soft: bool) -> Tensor:
        return x.relu() if soft else x.clamp(0, self.high)


@dataclass(frozen=True)
class Bytes(Codes):
    """The bytes of an image, with gradients as if nothing was rounded.

    Args:
        low: Smallest byte.
        high: Largest byte.
        zero_point: Byte that stands for zero.
    """

    def _carrier(self, x: Tensor, soft: bool) -> Tensor:
        return x


Forms = Mapping[str, tuple[int, ...]]


class Sums(nn.Module):
    """Sums of products of integers, carried in floating point.

    Attributes:
        way: How they are computed exactly on the current device.

    Args:
        op: A convolution or a linear layer of a program.
        forms: Shapes of the program's values without the batch dimension, by name.
        codes: The smallest and the largest input.
        bound: Bound on the magnitude of a sum.
    """

    weight: Tensor

    def __init__(self, op: Convolution | Linear, forms: Forms, codes: tuple[int, int], bound: int) -> None:
        super().__init__()
        self.register_buffer("weight", op.weight.clone())
        self.op = dataclasses.replace(op, weight=torch.empty(0))
        self.shape, self.result, self.codes = forms[op.source], forms[op.name], codes
        self.ways: tuple[Way, ...] = ("plain", "unfolded", "float64") if bound < EXACT else ("float64",)
        self.way: Way = self.ways[0]

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "float64":
            return self._plain(x.double()).to(x.dtype)
        return self._unfolded(x) if self.way == "unfolded" else self._plain(x)

    def _plain(self, x: Tensor) -> Tensor:
        weight, op = self.weight.to(x.dtype), self.op
        if isinstance(op, Linear):
            return F.linear(x, weight)
        return F.conv2d(x, weight, None, op.stride, op.padding, op.dilation, op.groups)

    def _unfolded(self, x: Tensor) -> Tensor:
        """Compute a convolution as one matrix product per group."""
        op = self.op
        if isinstance(op, Linear):
            return self._plain(x)
        columns = F.unfold(x, self.weight.shape[2:], op.dilation, op.padding, op.stride)
        columns = columns.view(len(x), op.groups, self.weight[0].numel(), -1)
        rows = self.weight.to(x.dtype).view(op.groups, -1, self.weight[0].numel())
        return (rows @ columns).view(len(x), *self.result)

    @torch.no_grad()
    def find_way(self) -> None:
        """Compare sums of extreme inputs with integer sums, and choose the fastest way that is exact.

        Raises:
            ValueError: If none is.
        """
        ends = torch.tensor([*self.codes, 0])
        x = ends[torch.randint(0, 3, (1, *self.shape), generator=torch.Generator().manual_seed(0))]
        expected = _integer_sums(self.op, self.weight.cpu().long(), x).view(1, *self.result).float()
        for way in self.ways:
            self.way = way
            if torch.equal(self(x.to(self.weight.device, torch.float32)).cpu(), expected):
                return
        raise ValueError(f"{self.op.name}: its sums are not exact on {self.weight.device}: run the twin on the CPU")


def _integer_sums(op: Convolution | Linear, weight: Tensor, x: Tensor) -> Tensor:
    """Return the sums of products for one image, computed with integers on the CPU."""
    if isinstance(op, Linear):
        return x @ weight.T
    x = F.pad(x, (op.padding[1], op.padding[1], op.padding[0], op.padding[0]))
    for axis in (0, 1):
        x = x.unfold(2 + axis, op.dilation[axis] * (weight.shape[2 + axis] - 1) + 1, op.stride[axis])
    windows = x[0, ..., :: op.dilation[0], :: op.dilation[1]].permute(0, 3, 4, 1, 2)
    columns = windows.reshape(op.groups, weight[0].numel(), -1)
    return weight.reshape(op.groups, -1, weight[0].numel()) @ columns


class Combination(nn.Module):
    """A weighted sum that may be rounded to codes, see :class:`qra.deploy.ops.Combine`.

    Args:
        op: The operation.
        is_flat: Whether values have no rows and columns.
    """

    def __init__(self, op: Combine, is_flat: bool) -> None:
        super().__init__()
        self.factors = nn.Parameter(op.factors.clone(), requires_grad=False)
        self.offset = nn.Parameter(op.offset.clone(), requires_grad=False)
        self.parts, self.is_flat, self.has_places = op.parts, is_flat, op.offset.ndim == 3
        self.rounding: nn.Module = _rounding(op) if isinstance(op, Requantize) else _Limits(cast(Real, op))

    def forward(self, values: dict[str, Tensor]) -> Tensor:
        first, *others = (
            values[source][:, start:stop] * self._by_channel(self.factors[number])
            for number, (source, start, stop) in enumerate(self.parts)
        )
        u = first + (self.offset if self.has_places else self._by_channel(self.offset))
        for other in others:
            u = u + other
        limited: Tensor = self.rounding(u)
        return limited

    def _by_channel(self, values: Tensor) -> Tensor:
        return values if self.is_flat else values[:, None, None]


class _Limits(nn.Module):
    """Clips float values to limits, such as those of a ReLU."""

    def __init__(self, op: Real) -> None:
        super().__init__()
        self.low, self.high = op.low, op.high

    def forward(self, x: Tensor) -> Tensor:
        return x if self.low is None and self.high is None else x.clamp(self.low, self.high)


def _rounding(op: Requantize) -> ActivationFakeQuantizer:
    kind = UnsignedCodes if op.low == 0 and op.zero_point == 0 else Codes
    bits = max(2, min(8, (op.high - op.low).bit_length()))
    return ActivationFakeQuantizer(kind(op.low, op.high, op.zero_point), bits)


class IntegerNetwork(nn.Module):
    """A program as a network that maps pixels in [0, 1], (N, C, H, W), to logits.

    Pixels are rounded to bytes. Integers are carried in float32, in which sums of products are exact below 2^24. This
    is verified on each device, and another way is used where it does not hold. Gradients pass straight through
    rounding, as in the network that the program was made from.

    Args:
        program: The program to compute.
        sha256: Hash of a program whose weights are loaded later; weights that do not match it are rejected.

    Attributes:
        description: Description of the network in files.

    Raises:
        ValueError: If operations of the program do not fit each other.
    """

    def __init__(self, program: Program, sha256: str | None = None) -> None:
        super().__init__()
        check(program)
        self._expected = sha256
        self._exact_on: torch.device | None = None
        self._lines, self.image_shape = program.lines, program.image_shape
        self.image = ActivationFakeQuantizer(Bytes(0, 255), 8)
        self.layers = nn.Module()
        self._steps = [_without_tensors(op) for op in program.ops]
        self._codes = set(ranges(program))
        for name, module in sorted(_modules(program), key=lambda named: named[0].count(".")):
            _place(self.layers, name, module)
        self.register_load_state_dict_post_hook(IntegerNetwork._check_loaded)  # type: ignore[no-untyped-call]
        if sha256 is None:
            vars(self)["description"] = program.description
        else:
            arguments = {"ops": list(self._lines), "image_shape": list(program.image_shape), "sha256": sha256}
            vars(self)["description"] = {"class_path": TWIN, "init_args": arguments}

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Tensor):  # not a proxy, as in tracing
            self._check_input(x)
        return self._run(x)[LOGITS]

    def codes(self, x: Tensor) -> dict[str, Tensor]:
        """Return the codes of each requantization, by name, as integers in floating point.

        Args:
            x: Pixels in [0, 1], (N, C, H, W).
        """
        values = self._run(x)
        return {op.name: values[op.name] for op in self._steps if isinstance(op, Requantize)}

    def _run(self, x: Tensor) -> dict[str, Tensor]:
        values = {IMAGE: self.image(x * 255)}
        for op in self._steps:
            if isinstance(op, Convolution | Linear):
                values[op.name] = self.layers.get_submodule(op.name)(values[op.source])
            elif isinstance(op, Combine):
                values[op.name] = self.layers.get_submodule(op.name)(values)
            else:
                values[op.name] = _moved(op, values[op.sources[0]], op.name in self._codes)
        return values

    def _check_input(self, x: Tensor) -> None:
        """Reject images of another size, and verify that sums are exact on the device of the images."""
        if tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(
                f"the images are of shape {tuple(x.shape[1:])}, but the program was exported for {self.image_shape}: "
                "export it again for this size"
            )
        if x.device != self._exact_on:
            self._find_ways(x.device)

    def _find_ways(self, device: torch.device) -> None:
        """Choose how sums are computed on a device."""
        with float32(device):
            for layer in self.modules():
                if isinstance(layer, Sums):
                    layer.find_way()
        self._exact_on = device

    @staticmethod
    def _check_loaded(network: nn.Module, _: Any) -> None:
        assert isinstance(network, IntegerNetwork)
        network._exact_on = None
        expected = network._expected
        if expected not in (None, digest(network._lines, network.image_shape, network.state_dict())):
            raise ValueError(TAMPERED)


def empty(ops: Sequence[str], image_shape: Sequence[int], sha256: str) -> IntegerNetwork:
    """Return a twin whose weights are loaded later, from its description in a file.

    Args:
        ops: Lines of a program, see :attr:`qra.deploy.program.Program.lines`.
        image_shape: Channels, height and width.
        sha256: Hash of the program.

    Raises:
        ValueError: If they do not describe a program.
    """
    return IntegerNetwork(assemble(ops, image_shape, None), str(sha256))


def _modules(program: Program) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of operations that have tensors, by name."""
    shape, codes, bounds = shapes(program), ranges(program), dict(sums(program))
    for op in program.ops:
        if isinstance(op, Convolution | Linear):
            yield op.name, Sums(op, shape, codes[op.source], bounds[op.name])
        elif isinstance(op, Combine):
            yield op.name, Combination(op, len(shape[op.name]) == 1)


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    """Place a module at the path given by its name, below plain modules."""
    *path, last = name.split(".")
    try:
        for part in path:
            if part not in root._modules:
                root.add_module(part, nn.Module())
            root = root.get_submodule(part)
        root.add_module(last, module)
    except KeyError:
        raise ValueError(f"an operation cannot be named {name[:100]}") from None


def _moved(op: Op, x: Tensor, is_code: bool) -> Tensor:
    """Compute an operation without weights, on codes or float values."""
    if isinstance(op, WindowSum):
        exact = x if is_code else x.double()
        return F.avg_pool2d(exact, op.kernel, op.stride, op.padding, divisor_override=1).type_as(x)
    if isinstance(op, WindowMax):
        return F.max_pool2d(x, op.kernel, op.stride, op.padding)
    if isinstance(op, Shortcut):
        return F.pad(x[:, :, :: op.step[0], :: op.step[1]], (0, 0, 0, 0, *op.channels))
    assert isinstance(op, Flatten)
    return x.flatten(1)


def _without_tensors(op: Op) -> Op:
    nothing: dict[str, Any] = {name: torch.empty(0) for name in op.tensors}
    return dataclasses.replace(op, **nothing)
