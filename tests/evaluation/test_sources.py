import pytest
import torch
from torch import nn

from qra.evaluation.sources import attack_networks, check_classes
from qra.quant import PACT, DoReFa, QuantScheme, convert

X = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def network(scheme=None):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()
    if scheme is not None:
        convert(layers, scheme)
    return layers


def test_a_network_without_rounded_activations_is_one_target_under_all_gradient_modes():
    for scheme in (None, QuantScheme(DoReFa(), PACT(), 4, 32)):
        targets = attack_networks(network(scheme), ("ste", "surrogate", "hard", "ste_soft"), network())
        assert targets["ste"] is targets["hard"] is targets["ste_soft"]
        assert targets["surrogate"] is not targets["ste"]


def test_each_gradient_mode_stays_with_its_target():
    model = network(QuantScheme(DoReFa(), PACT(), 4, 4))
    targets = attack_networks(model, ("ste", "hard"))
    x = X.clone().requires_grad_()
    gradients = {mode: torch.autograd.grad(target(x).sum(), x)[0] for mode, target in targets.items()}
    assert gradients["ste"].any()
    assert not gradients["hard"].any()
    assert model[1].gradient == "ste"


def test_a_surrogate_of_other_classes_is_refused():
    check_classes(network(), network(), X)
    with pytest.raises(ValueError, match="the surrogate has 64 classes, but the network has 5"):
        check_classes(network(), network()[:3], X)
