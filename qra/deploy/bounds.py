"""Static properties of a program's values: their shapes and how large they can be."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence

from qra.deploy.ops import (
    IMAGE,
    LOGITS,
    Combine,
    Convolution,
    Flatten,
    Linear,
    Op,
    Pair,
    Requantize,
    Shortcut,
    WindowMax,
    WindowSum,
)
from qra.deploy.program import Program

LARGEST = 2**27
"""Largest number of elements of a value for one image; typical networks have a hundredth of it."""

Shape = tuple[int, ...]


def check(program: Program) -> None:
    """Reject a program with operations that do not fit their inputs or are too large, as an untrusted file may have.

    Raises:
        ValueError: If there is one. The message names the operation.
    """
    found: dict[str, Shape] = {IMAGE: program.image_shape}
    codes, layers = {IMAGE}, set[str]()
    for op in program.ops:
        try:
            shape = _shape(op, found) if _fits(op, found, codes, layers) else ()
        except (IndexError, ZeroDivisionError):
            shape = ()
        if not shape or not 0 < min(shape) <= math.prod(shape) <= LARGEST:
            raise ValueError(f"the operation {op.name[:100]} does not fit its inputs, or is too large")
        found[op.name] = shape
        if isinstance(op, Convolution | Linear):
            layers.add(op.name)
        elif isinstance(op, Requantize) or (not isinstance(op, Combine) and op.sources[0] in codes):
            codes.add(op.name)
    if len(found[LOGITS]) != 1:
        raise ValueError(f"its logits have the shape {found[LOGITS]}, not one dimension")
    if beyond := [name for name, bound in sums(program) if bound >= 2**31]:
        raise ValueError(f"sums of {beyond[0][:100]} exceed 32 bits")


def _fits(op: Op, shape_of: Mapping[str, Shape], codes: Container[str], layers: Container[str]) -> bool:
    """Whether an operation fits its inputs, which are codes, sums of layers or floats with the given shapes."""
    source, before = op.sources[0], shape_of[op.sources[0]]
    if isinstance(op, Combine):
        return _combines(op, shape_of, layers)
    if isinstance(op, Convolution):
        steps = min(*op.stride, *op.dilation, op.groups)
        whole = op.weight.ndim == 4 and before[0] == op.weight.shape[1] * op.groups and len(op.weight) % op.groups == 0
        return source in codes and len(before) == 3 and steps > 0 and whole
    if isinstance(op, Linear):
        return source in codes and op.weight.ndim == 2 and before == tuple(op.weight.shape[1:])
    if isinstance(op, WindowSum | WindowMax):
        inside = all(2 * pad <= length for pad, length in zip(op.padding, op.kernel, strict=True))
        if len(before) != 3 or min(*op.stride, *op.kernel) < 1 or not inside:
            return False
        return source in codes or (source not in layers and (isinstance(op, WindowMax) or op.lie_side_by_side(before)))
    return source not in layers and (len(before) == 3 or isinstance(op, Flatten))


def _combines(op: Combine, shape_of: Mapping[str, Shape], layers: Container[str]) -> bool:
    """Whether parts can be summed: parts of layers with all channels of the sum or one, any other value as a whole."""
    channels = op.factors.shape[1] if op.factors.ndim == 2 else 0
    places = shape_of[op.sources[0]][1:]
    for part in op.parts:
        shape, count = shape_of[part.source], part.stop - part.start
        whole = (part.start, part.stop) == (0, shape[0]) if part.source not in layers else part.stop <= shape[0]
        if count not in (1, channels) or not whole or shape[1:] != places:
            return False
    if isinstance(op, Requantize):
        within = are_bytes(op.low, op.high) and op.low <= op.zero_point <= op.high
        if not within or not 0 < op.scale < math.inf:
            return False
    return len(op.parts) == len(op.factors) > 0 and tuple(op.offset.shape) in ((channels,), (channels, *places))


def are_bytes(low: int, high: int) -> bool:
    """Whether codes between two limits fit uint8 or int8."""
    return 0 <= low <= high <= 255 or -128 <= low <= high <= 127


def shapes(program: Program) -> dict[str, Shape]:
    """Return the shape of each value without the batch dimension, by name: (C, H, W) or (C,)."""
    found: dict[str, Shape] = {IMAGE: program.image_shape}
    for op in program.ops:
        found[op.name] = _shape(op, found)
    return found


def _shape(op: Op, found: Mapping[str, Shape]) -> Shape:
    before = found[op.sources[0]]
    if isinstance(op, Convolution):
        reach = [d * (n - 1) + 1 for d, n in zip(op.dilation, op.weight.shape[2:], strict=True)]
        return len(op.weight), *places(before, reach, op.stride, op.padding)
    if isinstance(op, WindowSum | WindowMax):
        return before[0], *places(before, op.kernel, op.stride, op.padding)
    if isinstance(op, Shortcut):
        rows, columns = (-(-length // step) for length, step in zip(before[1:], op.step, strict=True))
        return before[0] + sum(op.channels), rows, columns
    if isinstance(op, Linear):
        return (len(op.weight),)
    if isinstance(op, Combine):
        return op.factors.shape[1], *before[1:]
    assert isinstance(op, Flatten)
    return (math.prod(before),)


def places(shape: Sequence[int], reach: Sequence[int], stride: Pair, padding: Pair) -> tuple[int, int]:
    """Return the number of rows and columns of sliding windows.

    Args:
        shape: Channels, rows and columns of the input.
        reach: Rows and columns that a window covers.
        stride: Rows and columns from one window to the next.
        padding: Rows and columns of padding on each side.
    """
    rows, columns = ((shape[1 + i] + 2 * padding[i] - reach[i]) // stride[i] + 1 for i in (0, 1))
    return rows, columns


def ranges(program: Program) -> dict[str, tuple[int, int]]:
    """Return the smallest and the largest code of each value that consists of codes, by name."""
    found = {IMAGE: (0, 255)}
    for op in program.ops:
        if isinstance(op, Requantize):
            found[op.name] = (op.low, op.high)
        elif isinstance(op, WindowMax | Shortcut | Flatten) and op.source in found:
            low, high = found[op.source]
            found[op.name] = (min(low, 0), high) if isinstance(op, Shortcut) else (low, high)
        elif isinstance(op, WindowSum) and op.source in found:
            low, high = found[op.source]
            count = op.kernel[0] * op.kernel[1]
            found[op.name] = (min(low, 0) * count, high * count)
    return found


def sums(program: Program) -> Iterator[tuple[str, int]]:
    """Yield a bound on the magnitude of any complete or partial sum of products, by name of the layer."""
    found = ranges(program)
    for op in program.ops:
        if isinstance(op, Convolution | Linear):
            largest = max(map(abs, found[op.source]))
            yield op.name, int(op.weight.long().abs().flatten(1).sum(1).max()) * largest


def saturates_without_vnni(program: Program) -> tuple[str, ...]:
    """Return the convolutions that may saturate on x86 processors without VNNI, which add two products in 16 bits."""
    found = ranges(program)
    largest = {
        op.name: 2 * max(map(abs, found[op.source])) * min(int(op.weight.long().abs().max()), 128)
        for op in program.ops
        if isinstance(op, Convolution)
    }
    return tuple(name for name, value in largest.items() if value > 2**15 - 1)
