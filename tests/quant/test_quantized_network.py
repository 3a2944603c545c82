"""What a converted network computes, how it is differentiated, and its attack-time copy."""

import copy

import pytest
import torch
from nets import SCHEMES, images, quantized, small_resnet
from torch import nn
from torch.nn import functional as F

from qra.attacks import PGD
from qra.quant import (
    PACT,
    PWLQ,
    CalibratedUniform,
    DoReFa,
    QuantScheme,
    Uniform,
    dorefa_weight,
    float_mode,
    freeze,
    gradient_mode,
    pact,
)
from qra.quant.learned import LearnedValues
from qra.quant.network import quantizer_parameters

every_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
AT_INPUTS = QuantScheme(PWLQ(), CalibratedUniform(), 4, 4, None)


def input_gradient(network, x, mode="ste"):
    x = x.clone().requires_grad_()
    with gradient_mode(network, mode):
        return torch.autograd.grad(F.cross_entropy(network(x), torch.arange(len(x)) % 10), x)[0]


def test_a_network_computes_with_quantized_weights_and_activations():
    conv, linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
    network = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    x = images()
    expected = F.conv2d(x, dorefa_weight(conv.weight, 3), conv.bias)
    expected = pact(expected, 2.0, 5).mean((2, 3))
    expected = F.linear(expected, dorefa_weight(linear.weight, 3, scale_preserving=True), linear.bias)
    scheme = QuantScheme(DoReFa(), PACT(alpha=2.0), 3, 5, first_last_bit_width=None)
    torch.testing.assert_close(quantized(scheme, network)(x), expected)


def test_quantizers_that_are_off_leave_the_float_network():
    expected = small_resnet()(images())
    for scheme in SCHEMES.values():
        network = quantized(scheme)
        with float_mode(network):
            assert torch.equal(network(images()), expected)
        assert not torch.equal(network(images()), expected)


# ----- gradients -----


@pytest.mark.parametrize("scheme", [SCHEMES["pact"], SCHEMES["lsq"], AT_INPUTS], ids=["pact", "lsq", "at inputs"])
def test_the_hard_gradient_is_zero_and_the_others_are_not(scheme):
    network, x = quantized(scheme), images()
    assert not input_gradient(network, x, "hard").any()
    for mode in ("ste", "ste_soft"):
        assert input_gradient(network, x, mode).flatten(1).any(1).all()


def test_weights_alone_leave_the_hard_gradient_as_it_is():
    network, x = quantized(SCHEMES["weights-only"]), images()
    assert torch.equal(input_gradient(network, x, "hard"), input_gradient(network, x, "ste"))


def test_the_soft_gradient_passes_where_the_other_is_clipped():
    network = quantized(QuantScheme(DoReFa(), PACT(alpha=0.01)))
    x = images()
    clipped, soft = (input_gradient(network, x, mode).count_nonzero() for mode in ("ste", "ste_soft"))
    assert soft > clipped


def test_pgd_under_the_hard_gradient_is_no_attack_and_under_ste_it_is():
    network, x = quantized(AT_INPUTS), images(32)
    y = network(x).argmax(1)
    attack = PGD(eps=16 / 255, step_size=4 / 255, steps=10)
    broken = {}
    for mode in ("hard", "ste"):
        with gradient_mode(network, mode):
            broken[mode] = (network(attack(network, x, y)).argmax(1) != y).float().mean()
    noise = PGD(eps=16 / 255, step_size=4 / 255, steps=0)
    assert broken["hard"] == (network(noise(network, x, y)).argmax(1) != y).float().mean()
    assert broken["ste"] > broken["hard"] + 0.3


def test_the_gradient_mode_ends_with_its_block():
    network = quantized(SCHEMES["pact"])
    with gradient_mode(network, "hard"), pytest.raises(KeyError), gradient_mode(network, "ste_soft"):
        raise KeyError
    assert network.relu1.gradient == "ste"
    with pytest.raises(ValueError, match="choose one of ste, ste_soft, hard"), gradient_mode(network, "naive"):
        pass


def test_clip_levels_get_gradients_and_move():
    network = quantized(SCHEMES["pact"]).train()
    alphas = quantizer_parameters(network)
    assert len(alphas) == 5
    with torch.no_grad():
        for alpha in alphas:
            alpha.fill_(0.5)
    F.cross_entropy(network(images()), torch.arange(8)).backward()
    assert all(alpha.grad != 0 for alpha in alphas)
    torch.optim.SGD(alphas, lr=0.1).step()
    assert all(alpha != 0.5 for alpha in alphas)


def test_the_decay_is_the_sum_of_squared_clip_levels():
    network = quantized(QuantScheme(DoReFa(), PACT(alpha=3.0, decay=0.5)))
    decay = LearnedValues(network).decay()
    assert decay.item() == pytest.approx(0.5 * 5 * 9)
    decay.backward()
    assert network.relu1.alpha.grad.item() == pytest.approx(2 * 0.5 * 3)
    assert LearnedValues(quantized(SCHEMES["lsq"])).decay() == 0


def test_clip_levels_stay_above_zero():
    network = quantized(SCHEMES["pact"])
    with torch.no_grad():
        network.relu1.alpha.fill_(-1)
    with pytest.raises(ValueError, match="alpha is"):
        network(images())
    LearnedValues(network).keep_positive()
    assert network.relu1.alpha.item() == pytest.approx(1e-3)
    network(images())


@pytest.mark.parametrize("scheme", [SCHEMES["pact"], SCHEMES["pwlq"], SCHEMES["uniform"]])
def test_dead_channels_give_no_nan(scheme):
    network = small_resnet()
    with torch.no_grad():
        network.conv1.weight[0] = 0
        network.stages[0][0].conv1.weight.fill_(0)
        network.bn1.weight[1] = network.bn1.bias[1] = 0
    assert quantized(scheme, network)(images()).isfinite().all()


# ----- the attack-time copy -----


@every_scheme
def test_in_float64_the_frozen_copy_agrees_exactly(scheme):
    network, x = quantized(scheme).double(), images(dtype=torch.float64)
    frozen = freeze(network)
    torch.testing.assert_close(frozen(x), network(x), rtol=1e-10, atol=1e-10)
    for mode in ("ste", "ste_soft"):
        expected, found = input_gradient(network, x, mode), input_gradient(frozen, x, mode)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


def test_in_float32_the_frozen_copy_of_quantized_weights_agrees():
    network = quantized(SCHEMES["weights-only"])
    torch.testing.assert_close(freeze(network)(images()), network(images()), rtol=1e-4, atol=1e-4)


@every_scheme
def test_the_frozen_copy_holds_quantized_weights_and_learns_nothing(scheme):
    network = quantized(scheme)
    frozen = freeze(network)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert len(frozen.folded) == 5
    if scheme.weight_bit_width <= 4:
        weight = frozen.network.stages[0][0].conv1.weight
        assert all(len(channel.unique()) < 2 ** (scheme.weight_bit_width + 1) for channel in weight)


@every_scheme
def test_refresh_takes_over_what_training_or_calibration_changed(scheme):
    network = quantized(scheme).double()
    frozen = freeze(network)
    frozen(images(dtype=torch.float64))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.mul_(0.9 + 0.2 * torch.rand(value.shape, generator=generator, dtype=torch.float64))
    network.load_state_dict(network.state_dict())  # constants that were read are read again
    x = images(dtype=torch.float64)
    torch.testing.assert_close(frozen.refresh()(x), network(x), rtol=1e-10, atol=1e-10)


def test_the_frozen_copy_has_the_gradient_mode_of_its_source():
    network, x = quantized(AT_INPUTS), images()
    with gradient_mode(network, "hard"):
        frozen = freeze(network)
    assert not input_gradient_as_is(frozen, x).any()
    assert input_gradient_as_is(frozen.refresh(), x).any()
    with gradient_mode(frozen, "hard"):
        assert not input_gradient_as_is(frozen, x).any()


def input_gradient_as_is(network, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(network(x).sum(), x)[0]


def test_the_source_of_a_frozen_copy_is_untouched():
    network = quantized(QuantScheme(Uniform(), PACT(), 4, 4)).train()
    described, before = str(network), copy.deepcopy(network.state_dict())
    assert not freeze(network).network.training
    assert str(network) == described
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
