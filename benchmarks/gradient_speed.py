"""Milliseconds of a gradient of the attack-time copy and of the eager network, by network, precision and batch size.

A gradient is a forward pass, a cross-entropy and a backward pass to the images. On a GPU, the copy replays recorded
passes; ``host`` is the time until the host is free again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, get_args

import torch
from common import parser, report, untrained
from torch import Tensor, nn
from torch.nn import functional as F

from qra.attacks import PGD
from qra.graphs import InputReplays
from qra.memory import keep_memory
from qra.precision import Precision, float32, searching
from qra.quant import PACT, DoReFa, FrozenNetwork, QuantScheme, convert, freeze

SCHEMES = {"float": None, "W4A4": QuantScheme(DoReFa(), PACT(), 4, 4)}


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    options = parser(__doc__, batch_size=128)
    options.add_argument("--sizes", type=int, nargs="*", default=[128, 250, 1000], help="batch sizes")
    args = options.parse_args(argv)
    keep_memory()  # as the qra command does
    rows = [
        row(student, precision, size, args.compile, args.device, args.rounds)
        for student in SCHEMES
        for precision in get_args(Precision)
        for size in args.sizes
    ]
    notes = ["eager: of the network itself; PGD-10: a whole attack, in milliseconds for each of its steps"]
    report("gradients of the attack-time copy", rows, notes, args)
    return rows


def row(
    student: str, precision: Precision, size: int, compiled: bool, device: torch.device, rounds: int
) -> dict[str, Any]:
    network = untrained().to(device).eval()
    if (scheme := SCHEMES[student]) is not None:
        convert(network, scheme)
    copy = made(network, precision, compiled)
    x, y = torch.rand(size, 3, 32, 32, device=device), torch.arange(size, device=device) % 10
    attack = PGD()
    with float32(device):
        ms, host = milliseconds(lambda: gradient(copy, x, y), rounds, device)
        whole, _ = milliseconds(lambda: attack(copy, x, y), -(-rounds // 4), device)
    with searching(precision, device):
        eager, _ = milliseconds(lambda: gradient(network, x, y), rounds, device)
    figures = {"ms": ms, "host": host, "PGD-10": whole / attack.steps, "eager": eager, "ratio": eager / ms}
    return {"network": student, "precision": precision, "batch": size, **figures}


def made(network: nn.Module, precision: Precision, compiled: bool) -> FrozenNetwork:
    """Return the attack-time copy, compiled if asked for and the precision is not float32, where it does not help."""
    copy = freeze(network)
    copy.precision = precision
    if compiled and precision != "float32":
        copy.network.compile()
    return copy


def gradient(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    loss = F.cross_entropy(network(x).float(), y, reduction="sum")
    return torch.autograd.grad(loss, x)[0]


def milliseconds(work: Any, rounds: int, device: torch.device) -> tuple[float, float]:
    """Return the mean time per call of ``rounds`` calls without waiting between them, and the host's part of it.

    Calls from before that are not timed: as many as it takes until the work is recorded.
    """

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(InputReplays.worth):
        work()
    wait()
    start = time.perf_counter()
    for _ in range(rounds):
        work()
    host = time.perf_counter() - start
    wait()
    return 1000 * (time.perf_counter() - start) / rounds, 1000 * host / rounds


if __name__ == "__main__":
    main()
