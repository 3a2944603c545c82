"""The convolution of an attack-time copy, and the copies in other forms, as a GPU uses them."""

import pytest
import torch
from recorders import Replaying
from torch import nn

from qra import models
from qra.quant import (
    PACT,
    CalibratedUniform,
    DoReFa,
    QuantScheme,
    calibrate,
    convert,
    freeze,
    frozen_conv,
    gradient_mode,
    passes,
)
from qra.quant.frozen_conv import FrozenConv2d, can_be_mirrored
from qra.quant.network import activation_quantizers

NARROW = "bfloat16"


@pytest.fixture
def _mirrored(monkeypatch):
    monkeypatch.setattr(frozen_conv, "is_on_gpu", lambda x: True)


@pytest.fixture
def _as_on_a_gpu(monkeypatch):
    """Choose layouts and types of weights as if the processor were a GPU."""
    autocast = torch.is_autocast_enabled
    monkeypatch.setattr(
        passes, "layout", lambda device: torch.channels_last if autocast("cpu") else torch.contiguous_format
    )
    monkeypatch.setattr(passes, "weight_type", lambda device: torch.bfloat16 if autocast("cpu") else None)


def gradient(run, x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(run(x).float().logsumexp(1).sum(), x)[0]


@pytest.mark.usefixtures("_mirrored")
@pytest.mark.parametrize("kernel", [1, 3, 5, (3, 1)])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_the_mirrored_kernel_gives_the_input_gradient(kernel, padding, bias):
    torch.manual_seed(0)
    padding = 0 if kernel == 1 else (padding, 0) if kernel == (3, 1) else padding
    conv = nn.Conv2d(8, 3, kernel, padding=padding, bias=bias, dtype=torch.float64).requires_grad_(False)
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    made = FrozenConv2d(conv)
    torch.testing.assert_close(made(x), conv(x), rtol=0, atol=0)
    torch.testing.assert_close(
        gradient(lambda x: made(x).flatten(1), x), gradient(lambda x: conv(x).flatten(1), x), rtol=1e-12, atol=1e-12
    )
    leaf = x.requires_grad_()
    assert "MirroredGradient" in type(made(leaf).grad_fn).__name__


@pytest.mark.usefixtures("_mirrored")
@pytest.mark.parametrize(
    "settings",
    [{"stride": 2}, {"dilation": 2}, {"groups": 2}, {"padding_mode": "circular"}, {"padding": "same"}, {"padding": 3}],
    ids=str,
)
def test_another_convolution_keeps_its_own_gradient(settings):
    conv = nn.Conv2d(8, 8, 3, **{"padding": 1, **settings}).requires_grad_(False)
    assert can_be_mirrored(nn.Conv2d(8, 8, 3, padding=1))
    assert not can_be_mirrored(conv)
    x = torch.rand(2, 8, 9, 9, requires_grad=True)
    found = FrozenConv2d(conv)(x)
    assert "Mirrored" not in type(found.grad_fn).__name__
    torch.testing.assert_close(found, conv(x))


@pytest.mark.usefixtures("_mirrored")
def test_a_convolution_in_training_keeps_its_own_gradient():
    found = FrozenConv2d(nn.Conv2d(8, 8, 3))(torch.rand(2, 8, 5, 5, requires_grad=True))
    assert "Mirrored" not in type(found.grad_fn).__name__


@pytest.mark.usefixtures("_mirrored")
def test_the_gradient_is_of_the_precision_of_the_pass_whatever_is_set_when_it_is_taken():
    torch.manual_seed(0)
    conv = FrozenConv2d(nn.Conv2d(8, 4, 3).requires_grad_(False))
    x = torch.rand(2, 8, 5, 5, requires_grad=True)
    expected = torch.autograd.grad(conv(x).square().sum(), x)[0]
    loss = conv(x).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(torch.autograd.grad(loss, x)[0], expected)


@pytest.mark.usefixtures("_mirrored")
def test_a_small_batch_keeps_its_own_gradient_where_that_is_faster():
    conv = FrozenConv2d(nn.Conv2d(8, 8, 3).requires_grad_(False))
    conv.mirrors_from = 3
    for n, mirrored in ((2, False), (3, True)):
        x = torch.rand(n, 8, 5, 5, requires_grad=True)
        assert ("Mirrored" in type(conv(x).grad_fn).__name__) == mirrored


@pytest.mark.usefixtures("_mirrored", "_as_on_a_gpu")
@pytest.mark.parametrize("precision", ["float32", NARROW])
@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "eager"])
@pytest.mark.parametrize("scheme", [None, QuantScheme(DoReFa(), PACT(alpha=2.0), 4, 4)], ids=["float", "pact"])
def test_copies_in_other_forms_follow_their_source(precision, recorded, scheme, monkeypatch):
    torch.manual_seed(0)
    network = models.ResNet((1, 1), (8, 16)).eval()
    if scheme is not None:
        convert(network, scheme)
    x = torch.rand(3, 3, 32, 32)
    followed = freeze(network)
    followed.precision = precision
    if recorded:
        followed.passes.replays.make_recorder = Replaying()
    for _ in range(5):  # the taking over is recorded from the third time on
        followed.refresh()
        expected = fresh_gradient(network, precision, x, monkeypatch)
        torch.testing.assert_close(gradient(followed, x), expected, rtol=1e-5, atol=1e-6)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1.05)
    assert len(followed.passes._others) == 1
    assert not followed.passes.replays.failed


def fresh_gradient(network, precision, x, monkeypatch):
    """The gradient of a copy in its first form, made now."""
    with monkeypatch.context() as patched:
        patched.setattr(passes, "weight_type", lambda device: None)
        patched.setattr(passes, "layout", lambda device: torch.channels_last)
        fresh = freeze(network)
        fresh.precision = precision
        return gradient(fresh, x)


@pytest.mark.usefixtures("_as_on_a_gpu")
def test_a_copy_in_another_form_has_the_gradient_mode_of_the_first():
    torch.manual_seed(0)
    network = models.ResNet((1, 1), (8, 16)).eval()
    convert(network, QuantScheme(DoReFa(), PACT(alpha=2.0), 2, 2))
    x = torch.rand(3, 3, 32, 32)
    frozen = freeze(network)
    straight = gradient(frozen, x)
    with gradient_mode(network, "hard"):
        frozen.refresh()
        hard = gradient(frozen, x)
    frozen.refresh()
    assert hard.abs().sum() < straight.abs().sum()
    assert torch.equal(gradient(frozen, x), straight)


@pytest.mark.usefixtures("_as_on_a_gpu")
def test_taking_over_is_recorded_anew_with_each_form():
    frozen = freeze(models.ResNet((1,), (8,)).eval())
    recorder = frozen.passes.replays.make_recorder = Replaying()
    frozen.passes.replays.worth = 10**9  # passes themselves are not recorded
    x, counts = torch.rand(2, 3, 8, 8), []
    for precision in ("float32", NARROW):
        frozen.precision = precision
        frozen(x)
        for _ in range(4):
            frozen.refresh()
        counts.append(recorder.count)
    assert counts == [1, 2]


@pytest.mark.usefixtures("_as_on_a_gpu")
def test_constants_of_quantizers_are_forgotten_by_each_form():
    network = calibrated()
    frozen = freeze(network)
    frozen.precision = NARROW
    frozen(torch.rand(2, 3, 32, 32))
    (other,) = frozen.passes._others.values()
    kept = [quantizer._constants for quantizer in activation_quantizers(other.network).values()]
    assert all(kept)
    frozen.refresh()
    assert not any(kept)


@pytest.mark.usefixtures("_as_on_a_gpu")
@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'> should not be instantiated")
def test_compiled_code_of_each_form_is_one_graph():
    torch.compiler.reset()
    counts = {}
    for precision in ("float32", NARROW):
        network, graphs = calibrated(), []
        frozen = freeze(network)
        frozen.precision = precision
        frozen.network._compiled_call_impl = True  # so that others are compiled

        def compile_(module, graphs=graphs):
            backend = lambda graph, inputs: graphs.append(graph) or graph.forward  # noqa: E731
            module._compiled_call_impl = torch.compile(module._call_impl, backend=backend)

        compile_(frozen.network)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(nn.Module, "compile", compile_)
            for _ in range(3):
                frozen.refresh()
                frozen(torch.rand(2, 3, 32, 32))
        counts[precision] = len(graphs)
    assert counts == {"float32": 0, NARROW: 1}  # float32 proper is not compiled on a GPU


def calibrated():
    """A network whose activation quantizers hold constants."""
    torch.manual_seed(0)
    network = models.ResNet((1, 1), (8, 16)).eval()
    convert(network, QuantScheme(DoReFa(), CalibratedUniform(), 4, 4))
    calibrate(network, [torch.rand(4, 3, 32, 32)])
    return network


class Careful(nn.Module):
    """Computes its convolution in float32 proper."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return self.bn(self.conv(x)).mean((2, 3))


@pytest.mark.usefixtures("_as_on_a_gpu")
@pytest.mark.parametrize("make", [Careful, lambda: models.ResNet((1,), (8,)).double()], ids=["off inside", "float64"])
def test_where_autocast_leaves_an_input_alone_weights_are_their_own(make):
    torch.manual_seed(0)
    network = make().eval()
    x = torch.rand(2, 3, 8, 8, dtype=next(network.parameters()).dtype)
    frozen = freeze(network)
    frozen.precision = NARROW
    torch.testing.assert_close(frozen(x).double(), network(x).double(), rtol=1e-5, atol=1e-6)


def test_a_convolution_whose_padding_was_set_later_is_folded():
    network = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Flatten()).eval()
    network[0].padding = 1
    assert freeze(network).folded == [("0", "1")]


@pytest.mark.usefixtures("_as_on_a_gpu")
def test_the_weights_of_convolutions_lie_in_the_type_of_autocast_and_those_of_others_do_not():
    frozen = freeze(models.ResNet((1, 1), (8, 16)))
    frozen.precision = NARROW
    frozen(torch.rand(2, 3, 32, 32))
    (other,) = frozen.passes._others.values()
    kinds = {name: value.dtype for name, value in other.network.named_parameters()}
    assert kinds["conv1.weight"] == kinds["conv1.bias"] == torch.bfloat16
    assert kinds["fc.weight"] == torch.float32
    assert other.network.normalize.mean.dtype == torch.float32
    assert frozen.network.conv1.weight.dtype == torch.float32


class Viewing(nn.Module):
    """Flattens by ``view``, which takes contiguous images alone."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.relu, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Linear(288, 5)

    def forward(self, x):
        return self.fc(self.flat(self.relu(self.norm(self.conv(x)))))

    def flat(self, x):
        return x.view(x.shape[0], -1)


class Striding(Viewing):
    """Takes it for granted that images are contiguous, and reads others in the wrong order."""

    def flat(self, x):
        return x.as_strided((x.shape[0], 288), (288, 1))


@pytest.mark.parametrize("precision", [None, NARROW])
@pytest.mark.parametrize(
    ("kind", "scheme"), [(Viewing, None), (Striding, None), (Viewing, QuantScheme(DoReFa(), PACT(), 4, 4))]
)
def test_a_network_that_needs_contiguous_activations_has_a_contiguous_copy(kind, scheme, precision):
    network = kind().eval()
    if scheme is not None:
        convert(network, scheme)
    copy, x = freeze(network), torch.rand(6, 3, 8, 8)
    copy.precision = precision
    tolerance = 1e-4 if precision is None else 0.3
    torch.testing.assert_close(copy(x).float(), network(x), rtol=0, atol=tolerance)
    network.conv.weight.data.mul_(2)
    copy.refresh()
    torch.testing.assert_close(copy(x).float(), network(x), rtol=0, atol=tolerance)
    assert network.attack_copy["kind"] == "folded"
    assert gradient(copy, x).abs().sum() > 0
    if scheme is not None:
        assert copy.unrounded()(x).shape == (6, 5)
