"""Image-steps per second of PGD: this project compared with other libraries, on one network and the same images.

An image-step is one attack step for one image. Every library that can be imported is included; README.md says how to
install them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from common import Timing, alternate, parser, report, speed_ratio, untrained
from torch import Tensor, nn
from torch.nn import functional as F

import qra
from qra.attacks import PGD
from qra.data import to_pixels
from qra.data.synthetic import draw_images
from qra.precision import float32
from qra.quant import FrozenNetwork, freeze

EPS = 8 / 255
STEP_SIZE = 2 / 255
PLAIN_LOOP = "plain loop"
TORCHATTACKS = "torchattacks PGD"
APGD = "pyautoattack APGD-CE"
TOLERANCE = 0.05
"""Largest relative difference between the loss increase of an attack and that of the plain loop."""

Run = Callable[[], Tensor]


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    options = parser(__doc__, batch_size=250)
    options.add_argument("--ckpt", help="checkpoint of the network to attack; without it, an untrained resnet20")
    options.add_argument("--steps", type=int, default=10, help="steps of each attack")
    options.add_argument("--cudnn-benchmark", action="store_true", help="let cuDNN time its algorithms, for all")
    args = options.parse_args(argv)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = args.cudnn_benchmark
    network = (qra.load(args.ckpt) if args.ckpt else untrained().eval()).to(args.device)
    x, y = attackable(network, args.batch_size, args.device)
    contestants = own(network, x, y, args.steps, args.compile) | peers(network, x, y, args.steps)
    with float32(args.device):  # the same arithmetic for all; bfloat16 only in rows that say so
        timings = alternate(contestants, args.rounds, args.device)
    base = TORCHATTACKS if TORCHATTACKS in timings else PLAIN_LOOP
    losses = {name: mean_loss(network, timing.result, y) for name, timing in timings.items()}
    check_same_attack(timings, x, losses, mean_loss(network, x, y))
    rows = [
        {"attack": name, "image-steps/s": args.batch_size * args.steps / timing.median}
        | speed_ratio(timing, timings[base])
        | {"loss": losses[name]}
        for name, timing in timings.items()
    ]
    report(f"PGD-{args.steps} on {args.batch_size} images", rows, [f"ratio: to {base}, in the same round"], args)
    return rows


def attackable(network: nn.Module, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return synthetic images and the network's predictions as labels, so that all are classified correctly."""
    x = to_pixels(draw_images(torch.arange(n) % 10, 0)).to(device)
    with torch.no_grad():
        return x, network(x).argmax(1)


def own(network: nn.Module, x: Tensor, y: Tensor, steps: int, compiled: bool) -> dict[str, Run]:
    """Return a plain loop, and this project's attack on the network itself and on its attack-time copies."""
    attack = PGD(eps=EPS, step_size=STEP_SIZE, steps=steps)
    copies: dict[str, FrozenNetwork] = {"frozen": freeze(network)}
    if compiled:
        copies["frozen, compiled"] = freeze(network)
        copies["frozen, compiled"].network.compile()
    for name in list(copies):
        copies[f"{name}, bfloat16"] = freeze(network)
        copies[f"{name}, bfloat16"].precision = "bfloat16"
        if "compiled" in name:
            copies[f"{name}, bfloat16"].network.compile()
    runs: dict[str, Run] = {
        PLAIN_LOOP: lambda: plain_loop(network, x, y, steps),
        "qra PGD": lambda: attack(network, x, y),
    }
    for name, copy in copies.items():
        runs[f"qra PGD, {name}"] = partial(attack, copy, x, y)
    return runs


def plain_loop(network: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """Run PGD in the most straightforward way."""
    x_adv = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        loss = F.cross_entropy(network(x_adv), y)
        (gradient,) = torch.autograd.grad(loss, x_adv)
        x_adv = x_adv + STEP_SIZE * gradient.sign()
        x_adv = torch.min(torch.max(x_adv, x - EPS), x + EPS).clamp(0, 1)
    return x_adv.detach()


def peers(network: nn.Module, x: Tensor, y: Tensor, steps: int) -> dict[str, Run]:
    """Return the attacks of the installed libraries, each called as documented."""
    makers = {
        TORCHATTACKS: ("torchattacks", _torchattacks),
        "foolbox LinfPGD": ("foolbox", _foolbox),
        APGD: ("pyautoattack", _apgd),
    }
    return {name: make(network, x, y, steps) for name, (package, make) in makers.items() if find_spec(package)}


def _torchattacks(network: nn.Module, x: Tensor, y: Tensor, steps: int) -> Run:
    import torchattacks

    attack = torchattacks.PGD(network, eps=EPS, alpha=STEP_SIZE, steps=steps, random_start=True)
    return lambda: attack(x, y)


def _foolbox(network: nn.Module, x: Tensor, y: Tensor, steps: int) -> Run:
    import foolbox

    model = foolbox.PyTorchModel(network, bounds=(0, 1), device=x.device)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP_SIZE, steps=steps, random_start=True)
    return lambda: attack.run(model, x, y, epsilon=EPS)


def _apgd(network: nn.Module, x: Tensor, y: Tensor, steps: int) -> Run:
    from pyautoattack.autopgd_base import APGDAttack

    attack = APGDAttack(network, n_iter=steps, norm="Linf", eps=EPS, loss="ce", device=x.device)
    return lambda: attack.perturb(x, y, best_loss=True)


@torch.no_grad()
def mean_loss(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the mean cross-entropy on the network itself, in float32 and nats."""
    with float32(x.device):
        return F.cross_entropy(network(x), y).item()


def check_same_attack(timings: Mapping[str, Timing], x: Tensor, losses: Mapping[str, float], clean_loss: float) -> None:
    """Exit unless all attacks stayed in the ball and all PGD attacks raised the loss equally.

    APGD chooses its own step sizes and returns the best point it found, so its loss may differ.
    """
    for name, timing in timings.items():
        distance = (timing.result - x).abs().max().item()
        if distance > EPS + 1e-6:
            raise SystemExit(f"{name} left the ball: {distance * 255:.4f}/255")
        share = (losses[name] - clean_loss) / (losses[PLAIN_LOOP] - clean_loss)
        if name != APGD and abs(share - 1) > TOLERANCE:
            raise SystemExit(
                f"{name} is a different attack: it raises the loss {share:.3f} times as much as the plain loop"
            )


if __name__ == "__main__":
    main()
