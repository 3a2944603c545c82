"""The whole pipeline after training, put together from the pure functions, against the official code's logits."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qra.quant import (
    Range,
    TopK,
    bias_correction,
    fold_remain_bn,
    piecewise_linear_quantize,
    uniform_symmetric,
    uniform_unsigned,
    weight_breakpoint,
)

SITES = ["conv1", "conv2", "pool", "fc"]


@pytest.fixture(scope="module")
def folded(pwlq_activations):
    """Weights and shifts of the tiny network after folding."""
    state = {key.removeprefix("net.sd."): v for key, v in pwlq_activations.items() if key.startswith("net.sd.")}
    tensors = {"fc": state["fc.weight"], "fc.bias": state["fc.bias"]}
    for i in "12":
        bn = nn.BatchNorm2d(len(state[f"bn{i}.bias"]))
        bn.load_state_dict({key.removeprefix(f"bn{i}."): v for key, v in state.items() if key.startswith(f"bn{i}.")})
        result = fold_remain_bn(state[f"conv{i}.weight"], bn)
        tensors[f"conv{i}"], tensors[f"conv{i}.bias"] = result.conv_weight.detach(), result.bias.detach()
    return tensors


def forward(tensors, x, at_input):
    x = F.relu(F.conv2d(at_input("conv1", x), tensors["conv1"], tensors["conv1.bias"], padding=1))
    x = F.relu(F.conv2d(at_input("conv2", x), tensors["conv2"], tensors["conv2.bias"], stride=2, padding=1))
    x = at_input("pool", x).mean((2, 3))
    return F.linear(at_input("fc", x), tensors["fc"], tensors["fc.bias"])


def normalized(golden, name):
    return (golden[name].float() / 255 - golden["net.norm"][0]) / golden["net.norm"][1]


@pytest.fixture(scope="module")
def ranges(pwlq_activations, folded) -> dict[str, Range]:
    estimators = {site: TopK(10).estimator(8) for site in SITES}

    def observe(site, x):
        estimators[site].update(x)
        return x

    for batch in normalized(pwlq_activations, "net.cal_u8").split(4):
        forward(folded, batch, observe)
    return {site: estimator.range() for site, estimator in estimators.items()}


def quantize_weight(w, b, piecewise, corrected):
    if piecewise:
        q = piecewise_linear_quantize(w, b, weight_breakpoint(w))
    else:
        q = uniform_symmetric(w.double(), b, w.double().abs().flatten(1).amax(1)).to(w.dtype)
    return bias_correction(w, q) if corrected else q


def test_folding_leaves_the_logits_as_they_were(pwlq_activations, folded):
    logits = forward(folded, normalized(pwlq_activations, "net.test_u8"), lambda site, x: x)
    torch.testing.assert_close(logits, pwlq_activations["net.fp_logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("site", SITES)
def test_calibrated_ranges_equal_the_official_values(pwlq_activations, ranges, site):
    official = [float(pwlq_activations[f"net.bound.{site}.0.{end}"]) for end in ("minv", "maxv")]
    assert ranges[site] == pytest.approx(tuple(official), abs=1e-5)


@pytest.mark.parametrize("tag", ["u8a8", "p8a8", "u4a8", "p4a8", "p4a8bc", "p4a4", "p3a3bc", "p2a2"])
def test_logits_and_weight_errors_equal_the_official_values(pwlq_activations, folded, ranges, tag):
    piecewise, b, act_bits, corrected = tag[0] == "p", int(tag[1]), int(tag[3]), tag.endswith("bc")
    layers = ("conv1", "conv2", "fc")
    quantized = folded | {name: quantize_weight(folded[name], b, piecewise, corrected) for name in layers}

    def quantize(site, x):
        found = ranges[site]
        quantizer = uniform_symmetric if found.signed else uniform_unsigned
        return quantizer(x, act_bits, found.max_abs)

    logits = forward(quantized, normalized(pwlq_activations, "net.test_u8"), quantize)
    torch.testing.assert_close(logits, pwlq_activations[f"net.{tag}.logits"], rtol=0, atol=1e-3)
    errors = torch.cat([(quantized[name] - folded[name]).flatten() for name in layers])
    rmse = float(errors.double().square().mean().sqrt())
    assert rmse == pytest.approx(float(pwlq_activations[f"net.{tag}.rmse"]), rel=1e-4)
