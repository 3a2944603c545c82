"""Networks that people have, times quantizers: what runs, and what is refused with which reason.

``python tests/zoo.py`` tries all, and those of single networks if they are named, and writes the table into
``docs/networks.md``.
"""

from __future__ import annotations

import copy
import itertools
import logging
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import qra
from qra import checkpoint
from qra.describe import describe
from qra.quant import (
    LSQ,
    PACT,
    PWLQ,
    CalibratedUniform,
    DoReFa,
    LSQActivation,
    LSQPlus,
    QuantScheme,
    Uniform,
    calibrate,
    convert,
    cost,
    freeze,
    quantize_after_training,
    reestimate_batch_norm,
)
from qra.quant.cost import float_layers
from qra.quant.learned import LearnedValues
from qra.quant.network import fake_quantizers, quant_layers
from qra.quant.watch import watch

CLASSES = 4
DOCUMENT = Path(__file__).parents[1] / "docs" / "networks.md"


class FunctionalBlock(nn.Module):
    """A block of the CIFAR ResNets that call ``F.relu``."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.pad = (out - channels) // 2
        self.stride = stride

    def shortcut(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad)) if self.pad else x

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class SharedBlock(FunctionalBlock):
    """A block that calls one ReLU module twice."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__(channels, out, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class SiLUBlock(FunctionalBlock):
    """A block of SiLU instead of ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.silu(self.bn1(self.conv1(x)))
        return F.silu(self.bn2(self.conv2(out)) + self.shortcut(x))


class CifarResNet20(nn.Module):
    """ResNet20 for small images, of a kind of block."""

    def __init__(self, block: Callable[..., FunctionalBlock], relu: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = relu
        widths = [16, *[16] * 3, *[32] * 3, *[64] * 3]
        blocks = [block(a, b, 2 if b > a else 1) for a, b in itertools.pairwise(widths)]
        self.layer1, self.layer2, self.layer3 = (nn.Sequential(*blocks[i : i + 3]) for i in (0, 3, 6))
        self.linear = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


class PreActBlock(nn.Module):
    """A block that normalizes and rectifies before each convolution."""

    def __init__(self, channels: int, out: int, stride: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.dropout = dropout
        self.same = channels == out
        if not self.same:
            self.shortcut = nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        shortcut = x if self.same else self.shortcut(out)
        out = F.relu(self.bn2(self.conv1(out)))
        if self.dropout > 0:
            out = F.dropout(out, p=self.dropout, training=self.training)
        return self.conv2(out) + shortcut


class PreAct(nn.Module):
    """Stages of such blocks: WideResNet or PreActResNet."""

    def __init__(self, widths: tuple[int, ...], blocks: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        made: list[nn.Module] = []
        for place, (a, b) in enumerate(itertools.pairwise(widths)):
            made += [PreActBlock(a if i == 0 else b, b, 2 if i == 0 < place else 1, dropout) for i in range(blocks)]
        self.blocks = nn.Sequential(*made)
        self.bn = nn.BatchNorm2d(widths[-1])
        self.fc = nn.Linear(widths[-1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn(self.blocks(self.conv1(x))))
        return self.fc(F.adaptive_avg_pool2d(out, 1).flatten(1))


ARGUMENTS: dict[str, dict[str, Any]] = {
    "torchvision mobilenet_v2": {"dropout": 0.0},
    "torchvision mobilenet_v3_small": {"dropout": 0.0},
    "torchvision efficientnet_b0": {"dropout": 0.0, "stochastic_depth_prob": 0.0},
    "torchvision convnext_tiny": {"stochastic_depth_prob": 0.0},
    "torchvision vgg11_bn": {"dropout": 0.0},
    "torchvision vit_b_16": {"image_size": 32},
}
"""Without noise 20 steps tell whether training works."""


def _foreign(name: str) -> Callable[[], nn.Module]:
    arguments = ARGUMENTS.get(f"torchvision {name}", {})

    def make() -> nn.Module:
        network: nn.Module = getattr(torchvision.models, name)(num_classes=CLASSES, **arguments)
        for module in network.modules():
            if isinstance(module, torchvision.ops.StochasticDepth):
                module.p = 0.0  # without noise, 20 steps tell whether training works
            if isinstance(module, nn.Linear) and not module.weight.any():
                nn.init.normal_(module.weight, std=0.02)  # no network that was trained has a last layer of zeros
        return network

    return make


_FOREIGN = (
    *("resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "densenet121"),
    *("vgg11_bn", "regnet_y_400mf", "shufflenet_v2_x0_5", "vit_b_16", "swin_t"),
)

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{f"torchvision {name}": _foreign(name) for name in _FOREIGN},
    "CIFAR ResNet20, functional ReLU": lambda: CifarResNet20(FunctionalBlock),
    "CIFAR ResNet20, shared ReLU": lambda: CifarResNet20(SharedBlock, nn.ReLU(inplace=True)),
    "WideResNet-10-2": lambda: PreAct((16, 32, 64, 128), 1, dropout=0.1),
    "PreActResNet18": lambda: PreAct((64, 64, 128, 256, 512), 2),
    "SiLU ResNet20": lambda: CifarResNet20(SiLUBlock, F.silu),
}
SCHEMES = {
    "PACT": QuantScheme(DoReFa(), PACT(percentile=99.9), 4, 4),
    "LSQ": QuantScheme(LSQ(), LSQActivation(), 4, 4),
    "LSQ+": QuantScheme(LSQ(), LSQPlus(), 4, 4),
    "PWLQ": QuantScheme(PWLQ(), CalibratedUniform(), 4, 8, None),
    "uniform": QuantScheme(Uniform(), CalibratedUniform(), 4, 8, None),
}


class Verdict(NamedTuple):
    """What came of a network and a quantizer.

    Attributes:
        runs: Whether all held.
        reason: Why it was refused, or what does not hold.
    """

    runs: bool
    reason: str = ""

    def __str__(self) -> str:
        return "runs" if self.runs else f"refused: {self.reason}"


def images(side: int = 32, count: int = 8) -> tuple[Tensor, Tensor]:
    """Synthetic images: each class has a colour, and noise."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(count) % CLASSES
    colours = torch.rand(CLASSES, 3, 1, 1, generator=generator)
    return (0.6 * colours[y] + 0.4 * torch.rand(count, 3, side, side, generator=generator)), y


def verdict(network: str, scheme: str) -> Verdict:
    """Try one cell of the table."""
    torch.manual_seed(0)
    x, y = images()
    made = NETWORKS[network]()
    reestimate_batch_norm(made, [x])  # as training leaves it
    try:
        lack = _lack(network, made, SCHEMES[scheme], x, y)
    except ValueError as reason:
        return Verdict(False, str(reason))
    return Verdict(not lack, lack)


def _lack(name: str, network: nn.Module, scheme: QuantScheme, x: Tensor, y: Tensor) -> str:
    """What does not hold; empty if everything does."""
    original = copy.deepcopy(network)
    convert(network, scheme)
    calibrate(network, [x])
    lack = _training_lack(network, x, y) or _quantization_lack(name, network.eval(), scheme, x)
    if lack or scheme.activation.learned:
        return lack
    after = quantize_after_training(original.eval(), scheme, [x])
    return _quantization_lack(name, original, after, x)


def _training_lack(network: nn.Module, x: Tensor, y: Tensor, steps: int = 20) -> str:
    """Whether training on one batch lowers its loss and reaches each quantized layer."""
    optimizer, learned = torch.optim.Adam(network.train().parameters(), lr=5e-4, fused=True), LearnedValues(network)
    losses, reached = [], set[str]()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(x), y)
        (loss + learned.decay()).backward()
        reached |= {name for name, layer in quant_layers(network).items() if _has_gradient(layer.weight)}
        optimizer.step()
        learned.keep_positive()
        losses.append(loss.item())
    if dead := quant_layers(network).keys() - reached:
        return f"no gradient reaches {min(dead)}"
    return "" if losses[-1] < losses[0] else f"{steps} steps do not lower the loss"


def _has_gradient(weight: Tensor) -> bool:
    return weight.grad is not None and bool(weight.grad.any())


def _quantization_lack(name: str, network: nn.Module, scheme: QuantScheme, x: Tensor) -> str:
    """Whether all sites run, nothing is float, and copy and checkpoint are the same function."""
    calls = watch(network, x).calls
    idle = [each for each in fake_quantizers(network) if not calls[re.sub(r"\.(weight|input)_quantizer$", "", each)]]
    if idle:
        return f"{idle[0]} never runs"
    if floats := float_layers(scheme, cost(network, x.shape[1:])):
        return f"{floats[0]} is float"
    with torch.no_grad():
        if not torch.equal(_loaded(name, network, scheme)(x), network(x)):
            return "the network that qra.load makes of its checkpoint gives other logits"
    exact = copy.deepcopy(network).double()
    frozen = freeze(exact)
    apart = (frozen(x.double()) - exact(x.double())).abs().max() / exact(x.double()).abs().max()
    if not frozen.is_copy or apart > 1e-9:
        return f"the attack-time copy differs by {apart:.1g} of the largest logit"
    return ""


def _loaded(name: str, network: nn.Module, scheme: QuantScheme) -> nn.Module:
    """What ``qra.load`` makes of a checkpoint, which describes torchvision's networks."""
    described = name.startswith("torchvision")
    arguments = ARGUMENTS.get(name, {}) | {"num_classes": CLASSES}
    about = {"class_path": name.replace(" ", ".models."), "init_args": arguments}
    content = {
        "state_dict": {f"{checkpoint.OWN}{key}": value for key, value in network.state_dict().items()},
        checkpoint.KEY: {"network": about if described else None, "scheme": describe(scheme), "calibration": None},
    }
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "network.ckpt")
        torch.save(content, path)
        return qra.load(path, None if described else NETWORKS[name]())


def main(networks: Sequence[str]) -> None:
    """Try the cells of networks, all if none are named, and write the table after each of them."""
    logging.getLogger("qra").setLevel(logging.ERROR)
    for cell in itertools.product(networks or NETWORKS, SCHEMES):
        started = time.monotonic()
        found = verdict(*cell)
        print(f"{' x '.join(cell)}: {found} ({time.monotonic() - started:.0f} s)", flush=True)
        DOCUMENT.write_text(document({**table(), cell: found}))


def table() -> dict[tuple[str, str], Verdict]:
    """What the document says of each cell."""
    lines = DOCUMENT.read_text().splitlines() if DOCUMENT.exists() else []
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    reasons = dict(re.findall(r"^(\d+)\. (.*)$", "\n".join(lines), re.MULTILINE))
    found = {}
    for name, *cells in rows[1:]:
        for scheme, said in zip(rows[0][1:], cells, strict=True):
            if said.startswith(("runs", "no (")):
                number = re.search(r"\d+", said)
                found[name, scheme] = Verdict(said == "runs", reasons[number[0]] if number else "")
    return found


def document(found: Mapping[tuple[str, str], Verdict]) -> str:
    """The page of the documentation: a table, and below it the reasons."""
    rows, reasons = [], dict[str, int]()
    for network in NETWORKS:
        cells = []
        for scheme in SCHEMES:
            cell = found.get((network, scheme))
            if cell is None or cell.runs:
                cells.append("runs" if cell else "not tried")
            else:
                cells.append(f"no ({reasons.setdefault(cell.reason, len(reasons) + 1)})")
        rows.append(f"| {network} | {' | '.join(cells)} |")
    head = [f"| network | {' | '.join(SCHEMES)} |", "|" + "---|" * (len(SCHEMES) + 1)]
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join([_INTRODUCTION, *head, *rows, "", _NOTES, "", *notes, ""])


_INTRODUCTION = """# Networks and quantizers

Generated by `python tests/zoo.py`. A cell says *runs* if all of the following hold at 4 bits: 20 steps of
quantization-aware training on synthetic images lower the loss, every quantizer runs, no layer is float, the weights of
each quantized layer get a gradient, the attack-time copy is the same function in float64, and `qra.load` gives the same
logits from a checkpoint. PWLQ and uniform (8-bit activations) are also tried after training. Otherwise the cell says
*no*, with a reason below: either the error with which qra refuses the pair before anything is written (`allow_float`
names layers that may stay float all the same), or the check that failed. *Not tried* cells can be computed by
`python tests/zoo.py NETWORK`.
"""
_NOTES = "The reasons, as qra or the check states them:"

if __name__ == "__main__":
    main(sys.argv[1:])
