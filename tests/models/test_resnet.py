import pytest
import torch
from torch import nn

from qra import models


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        (models.resnet20, 269_722),
        (models.resnet32, 464_154),
        (models.resnet44, 658_586),
        (models.resnet56, 853_018),
        (models.resnet18, 11_173_962),
    ],
)
def test_parameter_counts(make, parameters):
    assert sum(p.numel() for p in make().parameters()) == parameters


def test_every_activation_site_has_its_own_module():
    network = models.resnet20().eval()
    calls = []
    for name, module in network.named_modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    network(torch.rand(1, 3, 32, 32))
    assert len(calls) == len(set(calls)) == 19


def test_padded_shortcut_subsamples_and_centres_the_old_channels():
    x = torch.rand(2, 4, 6, 6)
    y = models.resnet.PadShortcut(4)(x)
    assert y.shape == (2, 8, 3, 3)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any()
    assert not y[:, 6:].any()


def test_normalization_comes_first_and_lies_in_the_state_dict():
    network = models.resnet20(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    assert isinstance(next(network.children()), models.Normalize)
    assert {"normalize.mean", "normalize.std"} <= network.state_dict().keys()
    assert torch.equal(network.normalize(torch.full((1, 3, 1, 1), 0.5)).flatten(), torch.tensor([0.0, 1.0, 0.5]))


def test_a_foreign_network_is_normalized_from_outside():
    seen = []
    foreign = nn.Identity()
    foreign.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    models.Normalized(foreign, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))(torch.ones(1, 3, 2, 2))
    assert torch.equal(seen[0], torch.full((1, 3, 2, 2), 2.0))


@pytest.mark.parametrize("std", [(1.0, 1.0), (1.0, 0.0, 1.0)])
def test_a_normalization_that_cannot_be_is_refused(std):
    with pytest.raises(ValueError, match="one mean and one positive std"):
        models.Normalize((0.0, 0.0, 0.0), std)


def test_stages_without_a_width_are_refused():
    with pytest.raises(ValueError, match="blocks has 1 stages, channels has 2: give one of each per stage"):
        models.ResNet((1,), (4, 8))
    for wrong, name in ((([0, 1], [4, 8]), "blocks"), (([1, -1], [4, 8]), "blocks"), (([1, 1], [4, 0]), "channels")):
        with pytest.raises(ValueError, match=f"{name} is (0|-1): it must be at least 1"):
            models.ResNet(*wrong)
