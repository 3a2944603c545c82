"""Small quantized networks, their programs, and a session of the engine that is exact."""

import onnxruntime
import pytest
import torch
from batch_norms import trained_like
from torch import nn

from qra import models
from qra.deploy.evaluation import in_float64 as in_float64
from qra.deploy.lower import lower
from qra.deploy.twin import IntegerNetwork
from qra.quant import (
    LSQ,
    PACT,
    PWLQ,
    SAWB,
    CalibratedUniform,
    DoReFa,
    LSQActivation,
    LSQPlus,
    MinMax,
    QuantScheme,
    Uniform,
    calibrate,
    convert,
    quantize_after_training,
)

TRAINED = {
    f"W{bits[0]}A{bits[1]}-{type(weight).__name__}": QuantScheme(weight, activation, *bits)
    for bits in ((2, 2), (3, 3), (4, 4), (4, 8), (8, 8))
    for weight, activation in (
        (DoReFa(), PACT(percentile=99.9)),
        (SAWB(), LSQActivation()),
        (LSQ(), PACT(percentile=99.9)),
        (Uniform(), LSQActivation()),
    )
}
CALIBRATED = {
    "uniform": QuantScheme(Uniform(), CalibratedUniform(MinMax()), 4, 4),
    "uniform-layer": QuantScheme(Uniform(per_channel=False), CalibratedUniform(), 8, 8, None),
    "pwlq": QuantScheme(PWLQ(), CalibratedUniform(), 4, 8, None),
    "pwlq-overlapping": QuantScheme(PWLQ("search", overlapping=True), CalibratedUniform(), 3, 4, None),
}
USUAL = ("W2A2-DoReFa", "W4A4-DoReFa", "W4A8-LSQ", "W8A8-SAWB", "pwlq-corrected", "projection-W4A4-DoReFa")
"""What is tested each time; the rest is slow."""
LSQ_PLUS = QuantScheme(LSQ(), LSQPlus(), 4, 4)


def usual(names, quick=USUAL):
    """Parameters of a test, of which those that are not quick are slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def images(n=8, size=16, seed=0):
    """Pixels that are bytes."""
    return torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(seed)) / 255


def resnet(projection=False):
    """One block in each of two stages, with gains of every sign."""
    torch.manual_seed(0)
    network = models.ResNet((1, 1), (8, 16), projection)
    spread_statistics(network)
    return network.eval()


def bottleneck():
    """A network whose layers take values of either sign, which LSQ+ gives a zero point."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, 2), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)),
    ).eval()


def spread_statistics(network):
    """Statistics as training leaves them; some gains are negative, and one of each is zero."""
    for module in trained_like(network, 1).modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data[1::3] *= -1
            module.weight.data[0] = 0


def trained(scheme, network=None):
    """A network quantized in training, as it is at its start."""
    network = resnet() if network is None else network
    convert(network, scheme)
    calibrate(network, images().split(4))
    return network.eval()


def calibrated(scheme, bias_corrected=False, network=None):
    """A network quantized after training."""
    network = resnet() if network is None else network
    quantize_after_training(network, scheme, images().split(4), bias_corrected)
    return network.eval()


def programmed(network, size=16, pwlq="exact"):
    """The program of a network, and its twin."""
    program = lower(network, (size, size), pwlq)
    return program, IntegerNetwork(program).eval()


def session(model, optimized=True, threads=1, options=(), optimized_to=None):
    """A session of onnxruntime, which may write down what it makes of the model."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = threads, 3
    levels = onnxruntime.GraphOptimizationLevel
    settings.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    if optimized_to:
        settings.optimized_model_filepath = str(optimized_to)
    for name, value in options:
        settings.add_session_config_entry(name, value)
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, ["CPUExecutionProvider"])


def as_bytes(x):
    return (x * 255).round().to(torch.uint8).numpy()


def run(model, x, **options):
    """Outputs of a model for pixels."""
    return [torch.from_numpy(found) for found in session(model, **options).run(None, {"image": as_bytes(x)})]
