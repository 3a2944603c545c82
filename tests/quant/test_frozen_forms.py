"""The convolution of an attack-time copy, and the copies in other forms, as a GPU uses them."""

import pytest
import torch
from recorders import Replaying
from torch import nn

from qra import models
from qra.quant import PACT, DoReFa, QuantScheme, convert, freeze, frozen_conv, gradient_mode, passes
from qra.quant.frozen_conv import FrozenConv2d, can_be_mirrored

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
    conv = nn.Conv2d(8, 3, kernel, padding=padding, bias=bias, dtype=torch.float64)
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    made = FrozenConv2d(conv)
    torch.testing.assert_close(made(x), conv(x), rtol=0, atol=0)
    torch.testing.assert_close(
        gradient(lambda x: made(x).flatten(1), x), gradient(lambda x: conv(x).flatten(1), x), rtol=1e-12, atol=1e-12
    )
    leaf = x.requires_grad_()
    assert "MirroredGradient" in type(made(leaf).grad_fn).__name__


@pytest.mark.parametrize(
    "settings",
    [{"stride": 2}, {"dilation": 2}, {"groups": 2}, {"padding_mode": "circular"}, {"padding": "same"}, {"padding": 3}],
    ids=str,
)
def test_another_convolution_keeps_its_own_gradient(settings):
    conv = nn.Conv2d(8, 8, 3, **{"padding": 1, **settings})
    assert can_be_mirrored(nn.Conv2d(8, 8, 3, padding=1))
    assert not can_be_mirrored(conv)
    x = torch.rand(2, 8, 9, 9)
    torch.testing.assert_close(gradient(lambda x: FrozenConv2d(conv)(x).flatten(1), x).shape, x.shape)


@pytest.mark.usefixtures("_mirrored")
def test_a_small_batch_keeps_its_own_gradient_where_that_is_faster():
    conv = FrozenConv2d(nn.Conv2d(8, 8, 3))
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
    found = {}
    for mode in ("ste", "hard"):
        with gradient_mode(network, mode):
            frozen = freeze(network)
            found[mode] = gradient(frozen, x)
    assert found["hard"].abs().sum() < found["ste"].abs().sum()


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
