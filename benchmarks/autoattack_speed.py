"""Standard AutoAttack: this project compared with the authors' code, on one network and the same examples, in float32.

Gradients and forward passes are counted. Their number times the cost of one is the floor, below which no implementation
of the same attack on the same network can get.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from common import report, untrained
from torch import Tensor, nn

import qra
from qra.attacks import AutoAttack
from qra.attacks.base import replayed
from qra.data import ImageFolderDataModule, balanced_subset, to_pixels
from qra.data.synthetic import draw_images
from qra.evaluation.autoattack import authors_code
from qra.evaluation.robustness import robust
from qra.graphs import Work
from qra.memory import keep_memory
from qra.precision import Precision, float32
from qra.quant import FrozenNetwork, freeze

OURS, THEIRS = "qra", "pyautoattack"


class Counted(nn.Module):
    """Counts the passes through a network by their number of images, separately for gradients."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.calls = {"gradients": Counter[int](), "forwards": Counter[int]()}
        self._passes: dict[Work, dict[str, int]] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.calls["gradients" if x.requires_grad and torch.is_grad_enabled() else "forwards"][len(x)] += 1
        logits: Tensor = self.network(x)
        return logits

    def replay(self, work: Work, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run work that may be recorded and then run unseen; its passes are counted once, on one image."""
        if work not in self._passes:
            probe = Counted(self.network)
            work(probe, *(tensor[:1] for tensor in tensors))
            self._passes[work] = {kind: sum(calls.values()) for kind, calls in probe.calls.items()}
        for kind, count in self._passes[work].items():
            self.calls[kind][len(tensors[0])] += count
        return replayed(self.network, work, *tensors)

    def images(self, kind: str) -> int:
        """Return the number of images in all passes of a kind."""
        return sum(size * count for size, count in self.calls[kind].items())


@dataclass
class Trial:
    """Measurements of one implementation.

    Attributes:
        seconds: Seconds of each round.
        correct: Which examples are correct after the attack, bool (N,).
        networks: Networks that it ran on, with the counts of one round.
    """

    seconds: list[float]
    correct: Tensor
    networks: list[Counted]


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    args = options().parse_args(argv)
    keep_memory()  # as the qra command does
    torch.manual_seed(0)
    network = (qra.load(args.ckpt) if args.ckpt else untrained().eval()).to(args.device)
    x, y = examples(network, args)
    attack = AutoAttack(args.eps, args.norm, steps=args.steps, targets=args.targets, queries=args.queries)
    compiled = attack_time_copy(network, args) if args.compile else None
    runs = {OURS: lambda: ours(network, attack, x, y, compiled or attack_time_copy(network, args))}
    if not args.alone:
        runs[THEIRS] = lambda: theirs(network, attack, x, y)
    cost(network, x, "gradients", args.device)  # warms up
    compilation = timed(runs[OURS], args.device)[0] if args.compile else 0.0
    trials: dict[str, Trial] = {}
    for _ in range(args.rounds):  # alternate, so that a slow phase of the machine affects both
        for name, run in runs.items():
            seconds, trial = timed(run, args.device)
            trials.setdefault(name, trial).seconds.append(seconds)
    rows = [row(name, trials, x, args.device) for name in runs]
    report(
        f"AutoAttack ({attack.norm}) on {len(x)} images, searched in {args.search_precision}",
        rows,
        notes(trials, network, x, y) + [f"a first run, which compiles, took {compilation:.0f} s"] * args.compile,
        args,
    )
    return rows


def options() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--ckpt", help="checkpoint of the network to attack; without it, an untrained resnet20")
    made.add_argument("--root", help="directory with test/CLASS/IMAGE; without it, synthetic images, which the network "
                      "is correct about by definition")  # fmt: skip
    made.add_argument("--n", type=int, default=64, help="number of examples, one batch for both")
    made.add_argument("--eps", default="8/255", help="radius, in pixel units")
    made.add_argument("--norm", choices=("linf", "l2"), default="linf", help="norm of the ball")
    made.add_argument("--steps", type=int, default=100, help="steps of APGD and FAB; the standard has 100")
    made.add_argument("--targets", type=int, default=9, help="target classes; the standard has 9")
    made.add_argument("--queries", type=int, default=5000, help="queries of Square; the standard has 5000")
    made.add_argument("--search-precision", choices=get_args(Precision), default="float32", help="of this project")
    made.add_argument("--compile", action="store_true", help="compile this project's network, before it is timed")
    made.add_argument("--alone", action="store_true", help="this project alone")
    made.add_argument("--rounds", type=int, default=1, help="measurements of each, in turn")
    made.add_argument("--device", type=torch.device, default="cpu", help="where to run: cpu or cuda")
    made.add_argument("--json", type=Path, metavar="FILE", help="also write all figures to this file")
    return made


def examples(network: nn.Module, args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Return images and labels on the device: a class-balanced subset of the test images of ``--root``, if given.

    Without it, the images are synthetic and their labels are the network's predictions.
    """
    if args.root is None:
        x = to_pixels(draw_images(torch.arange(args.n) % 10, 0)).to(args.device)
        with torch.no_grad():
            return x, network(x).argmax(1)
    data = ImageFolderDataModule(args.root)
    data.prepare_data()
    test = data.data.test
    chosen = balanced_subset(test.labels, args.n, 0)
    return to_pixels(test.images[chosen].to(args.device)), test.labels[chosen].to(args.device)


def attack_time_copy(network: nn.Module, args: argparse.Namespace) -> FrozenNetwork:
    copy = freeze(network)
    copy.precision = args.search_precision
    if args.compile:
        copy.network.compile()
    return copy


def ours(network: nn.Module, attack: AutoAttack, x: Tensor, y: Tensor, copy: FrozenNetwork) -> Trial:
    judge, frozen = Counted(network), Counted(copy)
    correct = robust(judge, attack, x, y, torch.arange(len(x), device=x.device), attack_network=frozen)
    return Trial([], correct.cpu(), [frozen, judge])


def theirs(network: nn.Module, attack: AutoAttack, x: Tensor, y: Tensor) -> Trial:
    counted = Counted(network)
    classes = network(x[:1]).shape[1]
    with float32(x.device):
        x_adv, _ = authors_code(counted, attack, classes, x.device).run_standard_evaluation(x, y, batch_size=len(x))
    with float32(x.device), torch.no_grad():
        return Trial([], network(x_adv).argmax(1).eq(y).cpu(), [counted])


def timed(run: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, result


def row(name: str, trials: dict[str, Trial], x: Tensor, device: torch.device) -> dict[str, Any]:
    trial = trials[name]
    base = trials.get(THEIRS, trial)
    ratios = [their / our for our, their in zip(trial.seconds, base.seconds, strict=True)]
    seconds = statistics.median(trial.seconds)
    full, batched = floors(trial, x, device)
    return {
        "code": name,
        "seconds": seconds,
        "ratio": statistics.median(ratios),
        "correct": int(trial.correct.sum()),
        "gradients": sum(network.images("gradients") for network in trial.networks),
        "forwards": sum(network.images("forwards") for network in trial.networks),
        "floor (s)": full,
        "floor, as batched (s)": batched,
        "time / that": seconds / batched,
    }


def floors(trial: Trial, x: Tensor, device: torch.device) -> tuple[float, float]:
    """Return the seconds that the counted passes would take in batches of N, and take in their actual batches."""
    full = batched = 0.0
    for counted in trial.networks:
        for kind, calls in counted.calls.items():
            if not calls:
                continue
            sizes = sorted({power for size in (len(x), *calls) for power in powers_around(size)})
            seconds = [cost(counted.network, x[torch.arange(size) % len(x)], kind, device) for size in sizes]
            full += counted.images(kind) * float(np.interp(len(x), sizes, seconds)) / len(x)
            batched += sum(float(np.interp(size, sizes, seconds)) * count for size, count in calls.items())
    return full, batched


def powers_around(size: int) -> tuple[int, int]:
    """Return the largest power of two that is at most ``size``, and the smallest that is at least ``size``."""
    return 1 << (size.bit_length() - 1), 1 << (size - 1).bit_length()


def cost(network: nn.Module, x: Tensor, kind: str, device: torch.device) -> float:
    """Return the seconds of one pass: the median of five measurements, on a GPU of ten consecutive passes each."""
    repeats = 10 if device.type == "cuda" else 1

    def gradient() -> None:
        image = x.clone().requires_grad_()
        torch.autograd.grad(network(image).logsumexp(1).sum(), image)

    def forward() -> None:
        with torch.no_grad():
            network(x)

    def run() -> None:
        for _ in range(repeats):
            gradient() if kind == "gradients" else forward()

    with float32(device):
        run()
        return statistics.median(timed(run, device)[0] for _ in range(5)) / repeats


def notes(trials: dict[str, Trial], network: nn.Module, x: Tensor, y: Tensor) -> list[str]:
    """Return notes below the table: examples with different results, and how many were correct without attack."""
    with torch.no_grad():
        clean = int((network(x).argmax(1) == y).sum())
    correct = {name: trial.correct for name, trial in trials.items()}
    if THEIRS not in correct:
        return [f"{clean} of {len(x)} are correct without attack"]
    differing = (correct[OURS] != correct[THEIRS]).nonzero().flatten().tolist()
    lines = [f"example {place} is broken by {OURS if correct[THEIRS][place] else THEIRS} alone" for place in differing]
    return [f"{clean} of {len(x)} are correct without attack", *(lines or ["outcomes are the same for every example"])]


if __name__ == "__main__":
    main()
