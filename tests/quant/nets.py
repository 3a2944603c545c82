"""Small networks and the schemes to quantize them with."""

import torch
from batch_norms import trained_like
from torch import nn

from qra import models
from qra.quant import (
    LSQ,
    PACT,
    PWLQ,
    SAWB,
    CalibratedUniform,
    DoReFa,
    LeastSquares,
    LSQActivation,
    LSQPlus,
    MinMax,
    QuantScheme,
    Uniform,
    calibrate,
    convert,
)

SCHEMES = {
    "pact": QuantScheme(DoReFa(), PACT(), 4, 4),
    "pact-sawb": QuantScheme(SAWB(), PACT(percentile=99.9), 2, 3),
    "lsq": QuantScheme(LSQ(), LSQActivation(), 3, 5),
    "lsq-plus": QuantScheme(LSQ(), LSQPlus(), 4, 4),
    "uniform": QuantScheme(Uniform(), CalibratedUniform(MinMax()), 4, 4),
    "uniform-layer": QuantScheme(Uniform(per_channel=False), CalibratedUniform(LeastSquares()), 8, 8, None),
    "pwlq": QuantScheme(PWLQ(), CalibratedUniform(), 4, 8, None),
    "weights-only": QuantScheme(DoReFa(scale_preserving="all"), PACT(), 4, 32),
    "activations-only": QuantScheme(DoReFa(), PACT(), 32, 4),
}


class Inner(nn.Module):
    """A module whose forward pass is a function."""

    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(x)


def images(n=8, size=16, seed=0, dtype=torch.float32):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def small_resnet():
    """One block in each of two stages, with statistics as training leaves them."""
    torch.manual_seed(0)
    return trained_like(models.ResNet((1, 1), (8, 16)), seed=1).eval()


def quantized(scheme, network=None):
    """A network that was converted and calibrated."""
    network = small_resnet() if network is None else network
    convert(network, scheme)
    calibrate(network, images().split(4))
    return network
