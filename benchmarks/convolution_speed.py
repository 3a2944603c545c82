"""Microseconds of the convolutions of ResNet20 and of their input gradients, by size and precision.

``own`` is the library's input gradient, ``mirrored`` the equivalent forward convolution with the mirrored kernel. On a
GPU, ten repetitions are recorded as one CUDA graph, so that host time does not count. These measurements are the basis
on which :mod:`qra.quant.frozen_conv` and :mod:`qra.quant.passes` choose between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from common import alternate, parser, report
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from qra.precision import Precision, searching
from qra.quant.passes import layout

SHAPES = ((3, 16, 32), (16, 16, 32), (32, 32, 16), (64, 64, 8))
"""Input channels, output channels, and height and width in pixels."""
REPEATS = 10


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    options = parser(__doc__, batch_size=128)
    options.add_argument("--sizes", type=int, nargs="*", default=[80, 128, 250, 512], help="batch sizes")
    options.add_argument("--cudnn-benchmark", action="store_true", help="let cuDNN time its algorithms")
    args = options.parse_args(argv)
    torch.backends.cudnn.benchmark = args.cudnn_benchmark
    rows = [
        row(precision, size, shape, args.device, args.rounds)
        for precision in get_args(Precision)
        for size in args.sizes
        for shape in SHAPES
    ]
    report("convolutions (us)", rows, ["own, mirrored: input gradients"], args)
    return rows


def row(
    precision: Precision, size: int, shape: tuple[int, int, int], device: torch.device, rounds: int
) -> dict[str, Any]:
    before, after, edge = shape
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    with searching(None if dtype == torch.bfloat16 else precision, device), torch.no_grad():
        memory_format = torch.channels_last if dtype == torch.bfloat16 else layout(device)

        def made(*sizes: int) -> Tensor:
            return torch.randn(*sizes, device=device, dtype=dtype).contiguous(memory_format=memory_format)

        x, weight, upstream = made(size, before, edge, edge), made(after, before, 3, 3), made(size, after, edge, edge)
        works = {
            "forward": lambda: F.conv2d(x, weight, padding=1),
            "own": lambda: conv2d_input(x.shape, weight, upstream, padding=1),  # type: ignore[no-untyped-call]
            "mirrored": lambda: F.conv2d(upstream, weight.flip(2, 3).transpose(0, 1), padding=1),
        }
        timings = alternate({name: repeated(work, device) for name, work in works.items()}, rounds, device)
    figures = {name: 1e6 * timing.median / REPEATS for name, timing in timings.items()}
    ratio = figures["own"] / figures["mirrored"]
    return {"precision": precision, "batch": size, "channels": f"{before} to {after}", **figures, "ratio": ratio}


def repeated(work: Callable[[], Tensor], device: torch.device) -> Callable[[], object]:
    """Return a function that does the work ten times, on a GPU in one launch."""

    def all_of_it() -> Tensor:
        for _ in range(REPEATS - 1):
            work()
        return work()

    if device.type != "cuda":
        return all_of_it
    all_of_it()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        all_of_it()
    return graph.replay


if __name__ == "__main__":
    main()
