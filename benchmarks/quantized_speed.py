"""Cost of quantization: times of training and attack steps of quantized ResNet20s, relative to the float network.

Brevitas is included if it can be imported; README.md says how to install it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, cast

import torch
from common import alternate, optimizer_steps, parser, report, times_as_long, untrained
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from qra.attacks import PGD
from qra.modules import VanillaTraining
from qra.quant import LSQ, PACT, SAWB, DoReFa, LSQActivation, QuantScheme, Uniform, convert, freeze
from qra.types import Batch

FLOAT = "float"
FLOOR = "floor: ReLU and one pass more"
PACT_DOREFA = "qra, PACT and DoReFa"
EAGER = "PACT and DoReFa, written plainly"
Maker = Callable[[int], nn.Module]


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    options = parser(__doc__, batch_size=128)
    options.add_argument("--bits", type=int, default=4, help="bits of weights and activations")
    options.add_argument("--steps", type=int, default=3, help="training steps, or attack steps, of one measurement")
    args = options.parse_args(argv)
    torch.manual_seed(0)
    x = torch.rand(args.batch_size, 3, 32, 32, device=args.device)
    batch = Batch(x, torch.arange(len(x), device=args.device) % 10, torch.arange(len(x), device=args.device))
    settings = args.bits, batch, args.steps, args.compile
    timings = alternate(training(*settings) | attacks(*settings), args.rounds, args.device)
    rows = [
        {"work": work, "network": name, "ms": 1000 * timing.median / args.steps}
        | times_as_long(timing, timings[work, FLOAT])
        for (work, name), timing in timings.items()
    ]
    note = "ratio: how many times as long as the float network's, in the same round"
    report(f"steps of {args.batch_size} images, {args.bits} bits", rows, [note], args)
    return rows


def schemes(bits: int) -> dict[str, QuantScheme]:
    """Return the schemes to compare, with the same bit width in all layers."""
    parts = {
        PACT_DOREFA: (DoReFa(), PACT()),
        "qra, PACT and SAWB": (SAWB(), PACT()),
        "qra, PACT and uniform weights": (Uniform(), PACT()),
        "qra, LSQ": (LSQ(), LSQActivation()),
    }
    return {name: QuantScheme(*quantizers, bits, bits, None) for name, quantizers in parts.items()}


def training(bits: int, batch: Batch, count: int, compiled: bool) -> dict[tuple[str, str], Callable[[], object]]:
    """Return the training steps of each network, including the optimizer."""
    networks: dict[str, tuple[nn.Module, QuantScheme | None]] = {FLOAT: (untrained(), None)}
    networks[FLOOR] = (swapped(bits, lambda _: nn.Sequential(nn.ReLU(), OnePass())), None)
    networks |= {name: (untrained(), scheme) for name, scheme in schemes(bits).items()}
    networks[EAGER] = (swapped(bits, PlainPACT, PlainDoReFaConv, PlainDoReFaLinear), None)
    if find_spec("brevitas"):
        networks["brevitas"] = (brevitas_network(bits), None)
    modules = {name: VanillaTraining(network, scheme) for name, (network, scheme) in networks.items()}
    if compiled:
        for name, scheme in {FLOAT: None, PACT_DOREFA: schemes(bits)[PACT_DOREFA]}.items():
            modules[f"{name}, compiled"] = VanillaTraining(untrained(), scheme, compile=True)
    return {("training step", name): optimizer_steps(module, batch, count) for name, module in modules.items()}


def attacks(bits: int, batch: Batch, count: int, compiled: bool) -> dict[tuple[str, str], Callable[[], object]]:
    """Return PGD steps on the attack-time copies of float and quantized networks, and on a quantized network itself."""
    attack = PGD(steps=count)
    networks: dict[str, nn.Module] = {FLOAT: freeze(untrained().to(batch.x.device).eval())}
    for name, scheme in schemes(bits).items():
        network = untrained().to(batch.x.device).eval()
        convert(network, scheme)
        networks[name] = freeze(network)
        if name == PACT_DOREFA:
            networks[f"{name}, not frozen"] = network
    if compiled:
        networks |= {
            f"{name}, compiled": cast(nn.Module, torch.compile(networks[name])) for name in (FLOAT, PACT_DOREFA)
        }

    def run(network: nn.Module) -> Callable[[], Tensor]:
        return lambda: attack(network, *batch[:2])

    return {("attack step", name): run(network) for name, network in networks.items()}


def swapped(bits: int, activation: Maker, conv: Any = None, linear: Any = None) -> nn.Module:
    """Return a ResNet20 with replaced activations, convolutions and linear layers, made from bits and the old layer."""
    network = untrained()
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.ReLU):
            network.set_submodule(name, activation(bits))
        elif isinstance(module, nn.Conv2d) and conv is not None:
            network.set_submodule(name, conv(bits, module))
        elif isinstance(module, nn.Linear) and linear is not None:
            network.set_submodule(name, linear(bits, module))
    return network


class _Scale(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.mul(1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.mul(1.0)


class OnePass(nn.Module):
    """Reads and writes every value once forward and once backward, the least that a separate operation can do."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _Scale.apply(x)
        return result


class PlainPACT(nn.Module):
    """PACT written directly from its equations, with a straight-through estimator by ``detach``."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.levels: int = 2**bits - 1
        self.alpha = nn.Parameter(torch.tensor(10.0))

    def forward(self, x: Tensor) -> Tensor:
        clipped = 0.5 * (x.abs() - (x - self.alpha).abs() + self.alpha)
        scale = self.levels / self.alpha
        return clipped + (torch.round(clipped * scale) / scale - clipped).detach()


def plain_dorefa(weight: Tensor, bits: int) -> Tensor:
    """Quantize weights by DoReFa, written directly from its equations."""
    levels: int = 2**bits - 1
    squashed = torch.tanh(weight)
    share = squashed / (2 * squashed.abs().max().detach()) + 0.5
    rounded = share + (torch.round(levels * share) / levels - share).detach()
    return 2 * rounded - 1


class PlainDoReFaConv(nn.Module):
    """A convolution with DoReFa weights."""

    def __init__(self, bits: int, conv: nn.Conv2d) -> None:
        super().__init__()
        self.bits, self.conv = bits, conv

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        weight = plain_dorefa(conv.weight, self.bits)
        result: Tensor = F.conv2d(x, weight, conv.bias, conv.stride, conv.padding)
        return result


class PlainDoReFaLinear(nn.Module):
    """A linear layer with DoReFa weights."""

    def __init__(self, bits: int, linear: nn.Linear) -> None:
        super().__init__()
        self.bits, self.linear = bits, linear

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = F.linear(x, plain_dorefa(self.linear.weight, self.bits), self.linear.bias)
        return result


def brevitas_network(bits: int) -> nn.Module:
    """Return a ResNet20 of Brevitas layers with their default quantizers."""
    from brevitas.nn import QuantConv2d, QuantLinear, QuantReLU

    def conv(bits: int, old: nn.Conv2d) -> nn.Module:
        shape = (old.in_channels, old.out_channels, old.kernel_size[0], old.stride[0], old.padding[0])
        made: nn.Module = QuantConv2d(*shape, bias=old.bias is not None, weight_bit_width=bits)
        return made

    def linear(bits: int, old: nn.Linear) -> nn.Module:
        made: nn.Module = QuantLinear(
            old.in_features, old.out_features, bias=old.bias is not None, weight_bit_width=bits
        )
        return made

    return swapped(bits, lambda bits: QuantReLU(bit_width=bits), conv, linear)


if __name__ == "__main__":
    main()
