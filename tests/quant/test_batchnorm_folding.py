from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from qra.quant import fold_batch_norm, fold_remain_bn


def batch_norm(channels: int, **options: bool) -> nn.BatchNorm2d:
    bn = nn.BatchNorm2d(channels, **options).double().eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in (*bn.named_parameters(), *bn.named_buffers()):
        if name != "num_batches_tracked":
            value.data = torch.rand(channels, generator=generator, dtype=torch.float64) + 0.1
    return bn


def test_the_remaining_form_equals_the_official_values(pwlq_activations):
    golden = pwlq_activations
    bn = nn.BatchNorm2d(5)
    names = ("weight", "bias", "running_mean", "running_var")
    bn.load_state_dict({name: golden[f"fold.in.b.{name}"] for name in names}, strict=False)
    folded = fold_remain_bn(golden["fold.in.c.weight"], bn)
    torch.testing.assert_close(folded.conv_weight, golden["fold.out.c.weight"], rtol=0, atol=1e-6)
    for name in names:
        torch.testing.assert_close(getattr(folded, name), golden[f"fold.out.b.{name}"], rtol=0, atol=1e-6)


def test_the_remaining_form_computes_the_same_function():
    conv, bn = nn.Conv2d(3, 5, 3, bias=False).double(), batch_norm(5)
    x = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    expected = bn(conv(x))
    new_conv, new_bn = copy.deepcopy(conv), copy.deepcopy(bn)
    weight, *state = fold_remain_bn(conv.weight, bn)
    new_conv.weight.data = weight.data
    for name, value in zip(("weight", "bias", "running_mean", "running_var"), state, strict=True):
        getattr(new_bn, name).data = value.data
    torch.testing.assert_close(new_bn(new_conv(x)), expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_one_convolution_computes_the_same_function(bias, affine):
    conv, bn = nn.Conv2d(3, 5, 3, bias=bias).double(), batch_norm(5, affine=affine)
    x = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    weight, shift = fold_batch_norm(conv.weight, conv.bias, bn)
    torch.testing.assert_close(nn.functional.conv2d(x, weight, shift), bn(conv(x)))


def test_a_batch_norm_that_cannot_be_folded_is_refused():
    weight = torch.ones(5, 3, 1, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="track_running_stats"):
        fold_batch_norm(weight, None, batch_norm(5, track_running_stats=False))
    with pytest.raises(ValueError, match="affine=False"):
        fold_remain_bn(weight, batch_norm(5, affine=False))
