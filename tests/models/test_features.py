import pytest
import torch
from torch import nn

from qra.models import last_linear, resnet18, resnet20, with_features
from qra.quant import PACT, DoReFa, QuantScheme, convert, freeze


@pytest.mark.parametrize(("make", "dim"), [(resnet20, 64), (resnet18, 512)])
def test_the_features_of_residual_networks_are_what_they_pool(make, dim):
    torch.manual_seed(0)
    network = make().eval()
    x = torch.rand(2, 3, 32, 32)
    logits, features = with_features(network, x)
    assert features.shape == (2, dim)
    assert last_linear(network).in_features == dim
    torch.testing.assert_close(logits, network(x))
    torch.testing.assert_close(network.fc(features), logits)


@pytest.mark.parametrize("frozen", [False, True])
def test_quantized_networks_have_features_too(frozen):
    torch.manual_seed(0)
    network = resnet20().eval()
    convert(network, QuantScheme(DoReFa(), PACT(), 4, 4))
    network = freeze(network) if frozen else network
    logits, features = with_features(network, torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(last_linear(network)(features), logits)


def test_reading_features_leaves_nothing_behind():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2))
    keys = network.state_dict().keys()
    for _ in range(2):
        with_features(network, torch.rand(2, 3, 2, 2))
    assert network.state_dict().keys() == keys
    assert not network[3]._forward_pre_hooks


def test_a_network_without_a_linear_layer_is_refused():
    with pytest.raises(ValueError, match="has no linear layer"):
        with_features(nn.Conv2d(3, 2, 1), torch.rand(1, 3, 2, 2))
