import pytest
import torch
from torch import nn

from qra.attacks import PGD
from qra.evaluation.robustness import robust
from qra.evaluation.sources import attack_networks, check_classes
from qra.quant import PACT, DoReFa, QuantScheme, convert

ATTACK = PGD(eps=8 / 255, step_size=2 / 255, steps=5, early_stop=True)


def network(scheme=None):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()
    if scheme is not None:
        convert(layers, scheme)
    return layers


def examples(model, n=40):
    """Images with the labels that the network gives them."""
    x = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, model(x).argmax(1), torch.arange(n)


def test_a_network_without_rounded_activations_is_one_target_under_all_gradient_modes():
    for scheme in (None, QuantScheme(DoReFa(), PACT(), 4, 32)):
        targets = attack_networks(network(scheme), ("ste", "surrogate", "hard", "ste_soft"), network())
        assert targets["ste"] is targets["hard"] is targets["ste_soft"]
        assert targets["surrogate"] is not targets["ste"]


def test_each_gradient_mode_stays_with_its_target():
    model = network(QuantScheme(DoReFa(), PACT(), 4, 4))
    targets = attack_networks(model, ("ste", "hard"))
    x = examples(model)[0].requires_grad_()
    gradients = {mode: torch.autograd.grad(target(x).sum(), x)[0] for mode, target in targets.items()}
    assert gradients["ste"].any()
    assert not gradients["hard"].any()
    assert model[1].gradient == "ste"


def test_true_gradients_of_rounding_make_a_network_look_robust():
    model = network(QuantScheme(DoReFa(), PACT(), 4, 4))
    targets = attack_networks(model, ("ste", "hard"))
    correct = {
        mode: robust(model, ATTACK, *examples(model), attack_network=target).float().mean()
        for mode, target in targets.items()
    }
    assert correct["hard"] > correct["ste"] + 0.2


def test_a_surrogate_of_other_classes_is_refused():
    x, _, _ = examples(network())
    check_classes(network(), network(), x)
    with pytest.raises(ValueError, match="the surrogate has 64 classes, but the network has 5"):
        check_classes(network(), network()[:3], x)
