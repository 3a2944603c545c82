"""Networks and images on which an attack and the authors' code of it can be held against each other.

Inside, the networks compute in float64, and their logits are rounded to float32: the order of sums then changes
nothing.
"""

import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import nn

from qra.attacks import AutoAttack
from qra.quant import PACT, DoReFa, QuantScheme, calibrate, convert

CLASSES = 10
SCALE = {"mlp": 1.0, "conv": 1.0, "quantized": 0.25}
STEPS, QUERIES = 12, 60


class Exact(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network.double()

    def forward(self, x):
        return self.network(x.double()).float()


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, CLASSES))


def conv():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, CLASSES),
    )


def quantized():
    network = conv()
    convert(network, QuantScheme(DoReFa(), PACT(), 4, 4))
    calibrate(network, [images()])
    return network


NETWORKS = {"mlp": mlp, "conv": conv, "quantized": quantized}


def images(n=24, seed=1):
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def network(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = NETWORKS[name]()
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.02, 0.1)
    return Exact(made).eval()


def labels(model, x, wrong=3):
    """What the network says; another class for the first few."""
    with torch.no_grad():
        y = model(x).argmax(1)
    y[:wrong] = (y[:wrong] + 1) % CLASSES
    return y


def eps(name, norm):
    """A budget that breaks some of the examples of a network and not all."""
    return SCALE[name] * {"linf": 4 / 255, "l2": 0.15}[norm]


def short(name, norm, **settings):
    return AutoAttack(**{"eps": eps(name, norm), "norm": norm, "steps": STEPS, "queries": QUERIES, **settings})


def authors_attack(name, model, norm, eps, steps=STEPS, queries=QUERIES):
    """The authors' code of one attack."""
    settings = {"norm": {"linf": "Linf", "l2": "L2"}[norm], "eps": eps, "seed": 0, "device": "cpu"}
    if name == "apgd_ce":
        return APGDAttack(model, n_iter=steps, **settings)
    if name == "apgd_t":
        return APGDAttack_targeted(model, n_iter=steps, **settings)
    if name == "fab_t":
        return FABAttack_PT(model, n_iter=steps, targeted=True, **settings)
    return SquareAttack(model, n_queries=queries, resc_schedule=False, **settings)
