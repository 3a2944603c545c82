"""The attack-time copy is the same function as the network, whatever computes the network's kernels."""

import copy
import types
import warnings

import batch_norms
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from qra import models
from qra.attacks import PGD, UniformStart
from qra.evaluation.robustness import robust
from qra.quant import (
    PACT,
    SAWB,
    CalibratedUniform,
    MinMax,
    QuantScheme,
    Uniform,
    convert,
    freeze,
    quantize_after_training,
)
from qra.quant.agreement import _apart as apart

EPS = 4 / 255
GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(24, 3, 12, 12, generator=GENERATOR)


class Plain(nn.Module):
    def __init__(self, conv=nn.Conv2d):
        super().__init__()
        self.c0, self.b0 = conv(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.c1, self.b1 = conv(8, 8, 3, 1, 1), nn.BatchNorm2d(8)
        self.r0, self.r1 = nn.ReLU(), nn.ReLU()
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.tail(self.b0(self.c0(x)))

    def tail(self, x):
        x = self.r1(self.b1(self.c1(self.r0(x))))
        return self.fc(x.mean((2, 3)))


class FourBits(nn.Conv2d):
    def forward(self, x):
        step = self.weight.detach().abs().max() / 7
        rounded = self.weight + ((self.weight / step).round() * step - self.weight).detach()
        return F.conv2d(x, rounded, self.bias, self.stride, self.padding)


class Standardized(nn.Conv2d):
    def forward(self, x):
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        w = 0.1 * w / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding)


class Halved(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight / 2, bias)


class Transformed(Plain):
    def tail(self, x):
        x = self.r1(self.b1(F.conv2d(self.r0(x), self.c1.weight.tanh(), padding=1)))
        return self.fc(x.mean((2, 3)))


class Branching(Plain):
    def forward(self, x):
        return self.tail(self.b0(self.c0(x)) if x.mean() > 0.4 else self.c0(x))


class OtherWhenTraced(Plain):
    def forward(self, x):
        y = self.c0(x)
        return self.tail(self.b0(y) if isinstance(x, torch.fx.Proxy) else self.b0(y) + y)


class Unregistered(Plain):
    def __init__(self):
        super().__init__()
        self.stem = lambda x: self.b0(self.c0(x))

    def forward(self, x):
        return self.tail(self.stem(x))


class NotCopied(Plain):
    def __deepcopy__(self, memo):
        raise RuntimeError("there is one of me")


class Float32Only(Plain):
    def forward(self, x):
        return super().forward(x.float())


def shared():
    network = Plain()
    network.c2, network.b2 = nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8)
    network.c2.weight = network.c1.weight
    network.r1 = nn.Sequential(nn.ReLU(), network.c2, network.b2)
    return network


def each(change):
    def make():
        network = Plain()
        for conv in (network.c0, network.c1):
            change(conv)
        return network

    return make


def old_weight_norm(conv):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(conv)


def patched(conv):
    conv.forward = types.MethodType(lambda self, x: F.conv2d(x, self.weight.sign(), None, self.stride, 1), conv)


def hooked(conv):
    conv.register_forward_hook(lambda module, args, output: 1.5 * output + 0.1)


NETWORKS = {
    "plain": (Plain, "folded"),
    "own 4-bit convolution": (lambda: Plain(FourBits), "not folded"),
    "weight standardization": (lambda: Plain(Standardized), "not folded"),
    "own _conv_forward": (lambda: Plain(Halved), "not folded"),
    "spectral_norm": (each(parametrizations.spectral_norm), "not folded"),
    "weight_norm": (each(parametrizations.weight_norm), "not folded"),
    "old spectral_norm": (each(nn.utils.spectral_norm), "not folded"),
    "old weight_norm": (each(old_weight_norm), "not folded"),
    "pruned": (each(lambda conv: prune.l1_unstructured(conv, "weight", 0.5)), "not folded"),
    "patched": (each(patched), "not folded"),
    "hooked": (each(hooked), "not folded"),
    "shared kernel": (shared, "folded"),
    "transformed kernel": (Transformed, "folded"),
    "branching": (Branching, "not folded"),
    "another function when traced": (OtherWhenTraced, "not folded"),
    "unregistered": (Unregistered, "the network itself"),
    "not copied": (NotCopied, "the network itself"),
    "float32 only": (Float32Only, "folded"),
}


def trained_like(network):
    """Statistics and affine parameters far from the first ones, so that folding changes kernels much."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.2, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    network(X)
    network.eval().requires_grad_(False)
    network.fc.bias -= network(X).mean(0)  # now all classes are predicted
    return network


def plain_pgd(network, x, y, start):
    """Which examples a projected gradient descent on the network itself leaves correct."""
    x_adv, correct = (x + start).clamp(0, 1), network(x).argmax(1) == y
    for _ in range(10):
        correct &= network(x_adv).argmax(1) == y
        x_adv.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(x_adv), y, reduction="sum"), x_adv)
        x_adv = (x_adv.detach() + EPS / 4 * gradient.sign()).clamp(x - EPS, x + EPS).clamp(0, 1)
    return correct & (network(x_adv).argmax(1) == y)


@pytest.mark.filterwarnings("ignore:.*(instead of the attack-time copy|cannot be traced)")
@pytest.mark.parametrize(("make", "kind"), NETWORKS.values(), ids=NETWORKS)
def test_attacks_on_the_copy_break_the_examples_that_attacks_on_the_network_break(make, kind):
    network = trained_like(make())
    y = network(X).argmax(1)
    before = [value.clone() for value in network.state_dict().values()]
    index = torch.arange(len(X))
    attack = PGD(EPS, EPS / 4, 10, start=UniformStart(3), early_stop=True)
    correct = robust(network, attack, X, y, index, attack_network=freeze(network))
    expected = plain_pgd(network, X, y, attack.start(X, EPS, "linf", index, 0, 0))
    assert 0 < expected.sum() < len(X)
    assert torch.equal(correct, expected)
    assert network.attack_copy["kind"] == kind
    assert all(torch.equal(now, then) for now, then in zip(network.state_dict().values(), before, strict=True))


PUBLISHED = {
    "resnet20": models.resnet20,
    "resnet18": models.resnet18,
    "torchvision": lambda: models.Normalized(torchvision.models.resnet18(num_classes=10)),
}


@pytest.mark.parametrize("make", PUBLISHED.values(), ids=PUBLISHED)
def test_logits_and_input_gradients_agree_with_the_source(make):
    torch.manual_seed(0)
    network = batch_norms.trained_like(make()).eval()
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


def test_a_network_that_cannot_be_traced_keeps_its_batch_normalization_and_says_so():
    network = trained_like(Branching())
    with pytest.warns(UserWarning, match="not folded"):
        frozen = freeze(network)
    assert frozen.folded == []
    torch.testing.assert_close(frozen(X), network(X))


@pytest.mark.parametrize(("make", "words"), [(OtherWhenTraced, "without folded"), (Unregistered, "network itself")])
def test_a_copy_that_is_another_function_gives_way_with_one_warning(make, words):
    network = trained_like(make())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frozen = freeze(network)
    with pytest.warns(UserWarning, match=f"{words}.*logits differ") as told:
        logits = frozen(X)
    assert len(told) == 1
    torch.testing.assert_close(logits, network(X))


def test_the_check_changes_no_generator_mode_or_default():
    network = trained_like(Plain()).requires_grad_(True)
    network.b1.train()
    frozen = freeze(network)
    torch.manual_seed(5)
    state, modes = torch.get_rng_state(), [module.training for module in network.modules()]
    frozen.check(X)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in network.modules()] == modes
    assert torch.get_default_dtype() == torch.float32
    assert all(value.dtype == torch.float32 and value.grad is None for value in network.parameters())


def test_logits_are_compared_on_first_use_and_after_the_first_refresh_only():
    network = trained_like(Plain())
    frozen = freeze(network)
    passes = []
    network.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    seen = []
    for _ in range(4):
        frozen(X)
        frozen(X)
        seen.append(len(passes))
        frozen.refresh()
    assert seen == [2, 4, 4, 4]  # of its function, and of the layout that the copy runs in
    assert max(passes) <= 8


class Scaled(Plain):
    scale = 1.0

    def forward(self, x):
        return self.scale * super().forward(x)


def test_what_only_changes_in_training_is_found_after_the_first_refresh():
    network = trained_like(Scaled())
    frozen = freeze(network)
    frozen(X)
    network.scale = 3.0  # no parameter and no buffer: a copy cannot follow
    with pytest.warns(UserWarning, match="logits differ"):
        logits = frozen.refresh()(X)
    torch.testing.assert_close(logits, network(X))


@pytest.mark.filterwarnings("ignore:.*(instead of the attack-time copy|cannot be traced)")
@pytest.mark.parametrize("make", [Unregistered, NotCopied])
def test_the_network_itself_is_attacked_in_eval_mode_with_the_gradients_of_the_copy(make):
    network = make()
    convert(network, QuantScheme(SAWB(), PACT(), 4, 4))
    trained_like(network)
    frozen = freeze(network)
    network.train()
    assert torch.equal(frozen(X), network.eval()(X))
    network.train()
    frozen(X)
    assert all(module.training for module in network.modules())


UNFIT = {
    "untraceable": (Branching, "b0, b1 cannot be folded .* cannot be traced"),
    "own convolution": (lambda: Plain(Standardized), r"b0 \(behind c0\), b1 \(behind c1\) cannot be folded"),
    "shared kernel": (shared, r"b1 \(behind c1\).* cannot be folded"),
    "spectral_norm": (each(parametrizations.spectral_norm), r"b0 \(behind c0\)"),
    "old weight_norm": (each(old_weight_norm), r"b0 \(behind c0\)"),
}


@pytest.mark.parametrize(("make", "reason"), UNFIT.values(), ids=UNFIT)
def test_quantization_after_training_refuses_by_name_what_it_cannot_fold(make, reason):
    network = trained_like(make())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=reason):
        quantize_after_training(network, QuantScheme(Uniform(), CalibratedUniform(), 4, 4), [X])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Shortcut(nn.Module):
    """A convolution that is normalized on one way and not on the other."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.conv, self.fc = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x):
        x = self.stem(x)
        return self.fc((x + self.conv(self.norm(x).relu())).mean((2, 3)))


def test_a_convolution_whose_output_goes_elsewhere_too_is_not_folded():
    network = trained_like(Shortcut())
    frozen = freeze(network)
    assert frozen.folded == []
    torch.testing.assert_close(frozen(X), network(X))


def test_quantization_after_training_leaves_a_norm_alone_that_cannot_be_folded(caplog):
    network = trained_like(Shortcut())
    before = copy.deepcopy(network)
    quantize_after_training(network, QuantScheme(Uniform(), CalibratedUniform(MinMax()), 8, 32, None), [X])
    assert caplog.messages == ["batch normalization that cannot be folded is kept: norm (behind stem)"]
    assert torch.equal(network.norm.running_var, before.norm.running_var)
    torch.testing.assert_close(network(X), before(X), rtol=0.02, atol=0.02)


def test_quantization_after_training_names_a_norm_that_has_no_bias_for_the_shift(caplog):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU()).eval()
    quantize_after_training(network, QuantScheme(Uniform(), CalibratedUniform(MinMax()), 8, 32, None), [X])
    assert caplog.messages == ["batch normalization that cannot be folded is kept: 1 (behind 0)"]


def test_quantization_after_training_names_a_module_that_never_runs():
    network = trained_like(Plain())
    network.spare = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="Linear spare never runs"):
        quantize_after_training(network, QuantScheme(Uniform(), CalibratedUniform(), 4, 4), [X])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (each(old_weight_norm), "the weights of c0, c1.* are computed"),
        (shared, "c1, r1.1 share their weights"),
    ],
)
def test_conversion_refuses_kernels_that_are_no_ones_own(make, reason):
    with pytest.raises(ValueError, match=reason):
        convert(make(), QuantScheme(SAWB(), PACT(), 4, 4))


def test_tracing_leaves_nothing_behind_in_the_network():
    class Keeping(Plain):
        def forward(self, x):
            self.last = self.c0(x)
            return self.tail(self.b0(self.last))

    network = trained_like(Keeping())
    network(X)
    freeze(network)
    assert isinstance(network.last, torch.Tensor)


def test_logits_that_are_finite_in_one_network_alone_are_apart():
    found = torch.tensor([[1.0, 2.0]])
    for number in (float("inf"), float("nan")):
        other = torch.tensor([[1.0, number]])
        assert apart(other, found) == apart(found, other) == float("inf")
