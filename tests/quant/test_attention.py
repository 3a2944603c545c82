"""Attention with plain projections, in the place of fused modules."""

import copy

import pytest
import torch
import torchvision
from nets import images
from torch import nn

from qra.quant import LSQ, CalibratedUniform, LSQPlus, QuantScheme, Uniform, calibrate, convert, float_mode, revert
from qra.quant.attention import join_attention, split_attention

PLUS = QuantScheme(LSQ(), LSQPlus(), 4, 8)


class Tokens(nn.Module):
    """Attention between the rows of an image."""

    def __init__(self, need_weights=False, **settings):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.attention = nn.MultiheadAttention(8, 2, **settings)
        self.need_weights = need_weights
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        y, weights = self.attention(x, x, x, need_weights=self.need_weights)
        return self.head(y.mean(1) + (0 if weights is None else weights.mean((1, 2))[:, None]))


def swin():
    torch.manual_seed(0)
    return torchvision.models.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=3)


NETWORKS = {
    "batch first": lambda: Tokens(batch_first=True),
    "tokens first": lambda: Tokens(),
    "with weights": lambda: Tokens(need_weights=True, batch_first=True),
    "without bias": lambda: Tokens(bias=False),
    "swin": swin,
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("size", [32, 72])
def test_plain_projections_are_the_same_function_under_the_same_keys(make, size):
    network, x = make().double().eval(), images(2, size, dtype=torch.float64)
    before, keys, described = network(x), list(network.state_dict()), str(network)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    parameters = set(map(id, network.parameters()))
    split_attention(network)
    torch.testing.assert_close(network(x), before, rtol=1e-12, atol=1e-12)
    assert set(network.state_dict()) == set(keys)
    assert set(map(id, network.parameters())) == parameters
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    network.load_state_dict(state)
    torch.testing.assert_close(copy.deepcopy(network)(x), before, rtol=1e-12, atol=1e-12)
    join_attention(network)
    assert str(network) == described
    assert list(network.state_dict()) == keys
    torch.testing.assert_close(network(x), before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [NETWORKS["batch first"], swin])
def test_projections_are_layers_to_quantize(make):
    network, float_state = make().eval(), make().state_dict()
    sites = convert(network, PLUS)
    names = {site.name.rpartition(".")[2] for site in sites if site.kind == "weight"}
    assert names >= ({"qkv", "proj"} if make is swin else {"in_proj", "out_proj"})
    calibrate(network, [images(size=32)])
    missing, unexpected = network.load_state_dict(float_state, strict=False)
    assert unexpected == []
    assert all(key.endswith(("step", "offset")) for key in missing)
    with float_mode(network):
        torch.testing.assert_close(network(images(size=32)), make().eval()(images(size=32)))
    assert not torch.allclose(network(images(size=32)), make().eval()(images(size=32)))
    network(images(size=32)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    revert(network)
    assert str(network) == str(make())


def test_attention_that_cannot_be_split_is_refused_by_name():
    network = nn.Sequential(nn.Conv2d(3, 8, 16), nn.Flatten(2), nn.TransformerEncoderLayer(1, 1, 4), nn.Flatten())
    network.append(nn.Linear(8, 2))
    with pytest.raises(ValueError, match=r"2\.self_attn"):
        convert(network, QuantScheme(Uniform(), CalibratedUniform(), 4, 8))
    v2 = torchvision.models.swin_transformer.SwinTransformerBlockV2
    network = torchvision.models.SwinTransformer([4, 4], 16, [2], [2], [4, 4], num_classes=3, block=v2)
    with pytest.raises(ValueError, match=r"Linear features\.1\.0\.attn\.qkv never runs"):
        convert(network, PLUS)


@pytest.mark.parametrize("mask", [{"attn_mask": torch.zeros(4, 4)}, {}])
def test_masks_and_other_keys_are_refused_when_they_come(mask):
    network = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2, batch_first=True)})
    split_attention(network)
    x = torch.rand(1, 4, 8)
    with pytest.raises(ValueError, match="masks, or of one sequence to another"):
        network["attention"](x, x if mask else x.clone(), x, **mask)


def test_a_refused_network_keeps_its_attention():
    network = Tokens()
    described = str(network)
    with pytest.raises(ValueError, match="no module of the network matches"):
        convert(network, QuantScheme(LSQ(), LSQPlus(), allow_float=["nowhere"]))
    assert str(network) == described
