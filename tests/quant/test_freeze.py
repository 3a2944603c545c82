import copy

import pytest
import torch
import torchvision
from batch_norms import trained_like
from torch import nn

from qra import models
from qra.quant.freeze import freeze

NETWORKS = {
    "resnet20": models.resnet20,
    "resnet18": models.resnet18,
    "torchvision": lambda: models.Normalized(torchvision.models.resnet18(num_classes=10)),
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_logits_and_input_gradients_agree_with_the_source(make):
    torch.manual_seed(0)
    network = trained_like(make()).eval()
    frozen = freeze(network)
    x = torch.rand(4, 3, 32, 32, requires_grad=True)
    expected, found = network(x), frozen(x)
    scale = expected.abs().max()
    assert (expected - found).abs().max() < 1e-4 * max(1.0, scale / 10)
    upstream = torch.randn_like(expected)
    (expected_gradient,) = torch.autograd.grad(expected, x, upstream)
    (gradient,) = torch.autograd.grad(found, x, upstream)
    # rounding flips single ReLUs, so single pixels may differ: compare directions
    cosine = torch.cosine_similarity(expected_gradient.flatten(1), gradient.flatten(1))
    assert cosine.min() > 0.9999
    assert gradient.is_contiguous()


def test_in_float64_the_fold_is_exact():
    network = trained_like(models.resnet20()).double().eval()
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(freeze(network)(x), network(x), rtol=1e-10, atol=1e-10)


def test_every_batch_normalization_of_resnet20_is_folded():
    frozen = freeze(models.resnet20())
    assert len(frozen.folded) == 19
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())


def test_the_source_is_untouched_and_nothing_takes_gradients():
    network = models.resnet20().train()
    before = copy.deepcopy(network.state_dict())
    frozen = freeze(network)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert not frozen.network.training
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_refresh_takes_over_weights_and_statistics():
    network = models.resnet20()
    frozen = freeze(network)
    x = torch.rand(2, 3, 32, 32)
    trained_like(network)
    with torch.no_grad():
        network.fc.bias.add_(1)
    torch.testing.assert_close(frozen.refresh()(x), network.eval()(x), rtol=1e-4, atol=1e-4)


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.bn(self.conv(x))
        return y.mean((2, 3)) if y.sum() > 0 else y.amax((2, 3))


def test_a_network_that_cannot_be_traced_keeps_its_batch_normalization_and_says_so():
    network = trained_like(Untraceable()).eval()
    with pytest.warns(UserWarning, match="not folded"):
        frozen = freeze(network)
    x = torch.rand(2, 3, 8, 8)
    assert frozen.folded == []
    torch.testing.assert_close(frozen(x), network(x))


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        return (self.bn(y) + y).mean((2, 3))


def test_a_convolution_whose_output_goes_elsewhere_too_is_not_folded():
    network = trained_like(Shared()).eval()
    frozen = freeze(network)
    x = torch.rand(2, 3, 8, 8)
    assert frozen.folded == []
    torch.testing.assert_close(frozen(x), network(x))
