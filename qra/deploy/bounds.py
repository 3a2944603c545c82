"""What is known of the values of a program without running it: their shapes, and how large they can be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qra.deploy.program import (
    IMAGE,
    Combine,
    Convolution,
    Flatten,
    Linear,
    Pair,
    Program,
    Requantize,
    Shortcut,
    WindowMax,
    WindowSum,
)


def shapes(program: Program) -> dict[str, tuple[int, ...]]:
    """The shape of each value without the batch, by name: (C, H, W), or (C,)."""
    found: dict[str, tuple[int, ...]] = {IMAGE: program.image_shape}
    for op in program.ops:
        before = found[op.sources[0]]
        if isinstance(op, Convolution):
            reach = [d * (n - 1) + 1 for d, n in zip(op.dilation, op.weight.shape[2:], strict=True)]
            found[op.name] = (len(op.weight), *_places(before, reach, op.stride, op.padding))
        elif isinstance(op, WindowSum | WindowMax):
            found[op.name] = (before[0], *_places(before, op.kernel, op.stride, op.padding))
        elif isinstance(op, Shortcut):
            rows, columns = (-(-length // step) for length, step in zip(before[1:], op.step, strict=True))
            found[op.name] = (before[0] + sum(op.channels), rows, columns)
        elif isinstance(op, Linear):
            found[op.name] = (len(op.weight),)
        elif isinstance(op, Combine):
            found[op.name] = (op.factors.shape[1], *before[1:])
        else:
            assert isinstance(op, Flatten)
            found[op.name] = (before[0] * before[1] * before[2],) if len(before) == 3 else before
    return found


def _places(shape: Sequence[int], reach: Sequence[int], stride: Pair, padding: Pair) -> tuple[int, int]:
    """Rows and columns of windows."""
    rows, columns = ((shape[1 + i] + 2 * padding[i] - reach[i]) // stride[i] + 1 for i in (0, 1))
    return rows, columns


def ranges(program: Program) -> dict[str, tuple[int, int]]:
    """The smallest and the largest code of each value that is codes, by name."""
    found = {IMAGE: (0, 255)}
    for op in program.ops:
        if isinstance(op, Requantize):
            found[op.name] = (op.low, op.high)
        elif isinstance(op, WindowMax | Shortcut | Flatten) and op.source in found:
            low, high = found[op.source]
            found[op.name] = (min(low, 0), high) if isinstance(op, Shortcut) else (low, high)
        elif isinstance(op, WindowSum):
            low, high = found[op.source]
            count = op.kernel[0] * op.kernel[1]
            found[op.name] = (min(low, 0) * count, high * count)
    return found


def sums(program: Program) -> Iterator[tuple[str, int]]:
    """The largest magnitude that any sum of products can reach, on the way or at its end, by name of the layer."""
    found = ranges(program)
    for op in program.ops:
        if isinstance(op, Convolution | Linear):
            largest = max(map(abs, found[op.source]))
            yield op.name, int(op.weight.long().abs().flatten(1).sum(1).max()) * largest


def saturates_without_vnni(program: Program) -> tuple[str, ...]:
    """The layers whose sums may saturate on x86 processors without VNNI, which add two products in 16 bits."""
    found = ranges(program)
    largest = {
        op.name: 2 * max(map(abs, found[op.source])) * min(int(op.weight.long().abs().max()), 128)
        for op in program.ops
        if isinstance(op, Convolution)
    }
    return tuple(name for name, value in largest.items() if value > 2**15 - 1)
