"""What only a CUDA device can show of recorded passes, layouts, fused quantizers and data that stays on the device."""

import copy

import pytest
import torch
from torch.nn import functional as F

from qra import models
from qra.attacks import APGD, FAB, PGD, Square, planes
from qra.attacks.state import margin_of
from qra.data import random_crop_flip
from qra.data.resident import AugmentedImages
from qra.modules.optimizers import FiniteLoss, fuse
from qra.modules.replays import TrainingReplays
from qra.precision import searching
from qra.quant import LSQ, PACT, DoReFa, LSQActivation, QuantScheme, convert, freeze, frozen_conv, fused, lsq, pact
from qra.quant.passes import layout

pytestmark = pytest.mark.gpu
PACT_SCHEME = QuantScheme(DoReFa(), PACT(alpha=2.0), 4, 4)
LSQ_SCHEME = QuantScheme(LSQ(), LSQActivation(), 4, 4)
SCHEMES = pytest.mark.parametrize("scheme", [None, PACT_SCHEME, LSQ_SCHEME], ids=["float", "pact", "lsq"])
PRECISIONS = pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
DEVICE = torch.device("cuda", 0)


def network(scheme):
    torch.manual_seed(0)
    made = models.resnet20().to(DEVICE).eval()
    if scheme is not None:
        convert(made, scheme)
    return made.to(DEVICE)


def images(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 3, 32, 32, generator=generator)
    return x.to(DEVICE), (torch.arange(n) % 10).to(DEVICE)


def copies(scheme, precision):
    """An attack-time copy that records at once, and one that never does."""
    source = network(scheme)
    recorded, eager = freeze(source), freeze(source)
    recorded.precision = eager.precision = precision
    recorded.passes.replays.worth = 1
    eager.passes.replays.make_recorder = lambda device: None
    return recorded, eager


def gradient(copy_, x, y):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(copy_(x).float(), y, reduction="sum"), x)[0]


@SCHEMES
@PRECISIONS
def test_recorded_gradients_are_the_eager_ones(scheme, precision):
    recorded, eager = copies(scheme, precision)
    for n in (128, 128, 96):
        x, y = images(n, n)
        found, expected = gradient(recorded, x, y), gradient(eager, x, y)
        assert ((found - expected).norm() / expected.norm()).item() < 1e-2  # a rounding flips a ReLU or a code
    assert recorded.passes.replays.recorded
    assert not recorded.passes.replays.failed


@SCHEMES
def test_refresh_reaches_what_was_recorded(scheme):
    source = network(scheme)
    frozen = freeze(source)
    frozen.passes.replays.worth = 1
    x, _ = images(32)
    for _ in range(5):
        with torch.no_grad():
            for parameter in source.parameters():
                parameter.mul_(1.02)
        frozen.refresh()
        torch.testing.assert_close(frozen(x), freeze(source)(x))
    assert not frozen.passes.replays.failed


@pytest.mark.parametrize(
    "attack",
    [PGD(), PGD("1/255", "0.3/255", steps=20, early_stop=True), APGD(steps=10), Square(queries=40)],
    ids=["pgd", "pgd until broken", "apgd", "square"],
)
def test_attacks_end_alike_on_recorded_work(attack):
    recorded, eager = copies(None, "float32")
    x, _ = images(96)
    y = eager(x).argmax(1)
    clean, found, expected = (
        margin_of(eager(each), y) for each in (x, *(attack(each, x, y) for each in (recorded, eager)))
    )
    # pixels may differ: roundings turn the sign of a gradient that is about zero
    assert (found - expected).mean().abs() <= 0.01 * (clean - expected).mean() + 1e-4
    assert ((found <= 0) != (expected <= 0)).sum().item() <= 2
    assert not recorded.passes.replays.failed


def test_fab_breaks_the_same_examples_on_recorded_work():
    recorded, eager = copies(None, "float32")
    x, _ = images(64)
    y = eager(x).argmax(1)
    attack = FAB(eps="2/255", steps=10, targets=3)
    ends = [(attack(each, x, y) != x).flatten(1).any(1) for each in (recorded, eager)]
    assert (ends[0] != ends[1]).sum().item() <= 1


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("scheme", [None, PACT_SCHEME], ids=["float", "pact"])
def test_a_network_runs_on_another_gpu_than_the_current_one(scheme):
    source = network(scheme)
    x, y = images(96)
    there = torch.device("cuda", 1)
    recorded = freeze(copy.deepcopy(source).to(there))
    recorded.passes.replays.worth = 1
    attacks = PGD(), APGD(steps=10), FAB(eps="2/255", steps=10, targets=3)
    for attack in attacks:
        found = attack(recorded, x.to(there), y.to(there))
        expected = attack(freeze(source), x, y)
        torch.testing.assert_close(
            margin_of(source(found.to(DEVICE)), y), margin_of(source(expected), y), atol=0.1, rtol=0
        )
    assert recorded.passes.replays.recorded
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("width", [48, 3072, 12288])
def test_the_way_to_a_plane_in_one_launch_is_that_of_plain_operations(norm, width):
    generator = torch.Generator().manual_seed(0)
    points, inside = torch.rand(2, 50, width, generator=generator).to(DEVICE)
    w = torch.randn(50, width, generator=generator).to(DEVICE)
    offset = (w * inside).sum(1)
    expected = planes.plainly(points.double().cpu(), w.double().cpu(), offset.double().cpu(), norm)
    found = planes.project_onto_plane(points, w, offset, norm)
    torch.testing.assert_close(found.double().cpu(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, planes.fused(points, w, offset, norm), rtol=0, atol=0)


@PRECISIONS
def test_gradients_by_mirrored_kernels_are_those_of_the_library(precision, monkeypatch):
    mirrored = frozen_conv.MirroredGradient
    shapes = []

    class Noted(mirrored):
        @staticmethod
        def backward(ctx, upstream):
            shapes.append(upstream.shape)
            return mirrored.backward(ctx, upstream)

    monkeypatch.setattr(frozen_conv, "MirroredGradient", Noted)
    _, copied = copies(None, precision)
    x, y = images(160)
    found = gradient(copied, x, y)
    assert len(shapes) == 16  # all but the first convolution and the two with a stride
    monkeypatch.setattr(frozen_conv, "is_on_gpu", lambda x: False)
    expected = gradient(copied, x, y)
    assert ((found - expected).norm() / expected.norm()).item() < (1e-3 if precision == "float32" else 3e-2)


def test_float32_proper_is_contiguous_and_all_else_channels_last():
    found = {}
    for precision in ("float32", "tf32", "bfloat16"):
        with searching(precision, DEVICE):
            found[precision] = layout(DEVICE)
    assert found == {
        "float32": torch.contiguous_format,
        "tf32": torch.channels_last,
        "bfloat16": torch.channels_last,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "quantizer",
    [
        lambda x, a: pact(x, a, 4),
        lambda x, a: pact(x, a, 4, "ste_soft"),
        lambda x, a: lsq(x, a / 15, 4, False, features=100),
        lambda x, a: lsq(x, a / 7, 4, True),
    ],
    ids=["pact", "pact soft", "lsq", "lsq signed"],
)
def test_fused_equals_plain(quantizer, dtype, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x, upstream = (torch.randn(16, 16, 32, 32, generator=generator).to(DEVICE) for _ in range(2))
    x = (3 * x).to(dtype).contiguous(memory_format=torch.channels_last)
    ends = []
    for is_fused in (True, False):
        if not is_fused:
            monkeypatch.setattr(fused, "applies", lambda *_: False)
        leaf, clip = x.clone().requires_grad_(), torch.tensor(3.7, device=DEVICE, requires_grad=True)
        result = quantizer(leaf, clip)
        ends.append((result, *torch.autograd.grad(result, (leaf, clip), upstream)))
    for found, expected in zip(ends[0][:2], ends[1][:2], strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    torch.testing.assert_close(ends[0][2], ends[1][2], rtol=1e-3, atol=1e-2)


@SCHEMES
def test_the_first_twenty_losses_of_recorded_training_are_the_eager_ones(scheme, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)  # else eager runs differ from each other
    losses = []
    replays = TrainingReplays("training")
    for is_recorded in (False, True):
        with searching("float32", DEVICE):
            trained = network(scheme).train()
            optimizer = torch.optim.SGD(trained.parameters(), lr=0.01, momentum=0.9)
            fuse(optimizer, DEVICE)
            for step in range(20):
                x, y = images(64, step)
                optimizer.zero_grad()
                logits = replays(trained, x) if is_recorded else trained(x)
                loss = F.cross_entropy(logits, y)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
    tolerance = 1e-4 if scheme is None else 1e-2  # a rounding that falls otherwise moves a loss by more
    assert losses[20:] == pytest.approx(losses[:20], rel=tolerance)
    assert not replays.failed


def test_several_batches_wait_for_one_backward_pass():
    grads, replays = [], TrainingReplays("training")
    for run in (lambda network, x: network(x), replays):
        trained = network(PACT_SCHEME).train()
        for _ in range(2):
            trained.zero_grad()
            with searching("float32", DEVICE):
                (x, y), (other, _) = images(64), images(64, 1)
                (F.cross_entropy(run(trained, x), y) + run(trained, other).square().mean()).backward()
        grads.append(torch.cat([parameter.grad.flatten() for parameter in trained.parameters()]))
    assert not replays.failed
    assert ((grads[1] - grads[0]).norm() / grads[0].norm()).item() < 2e-2


def test_images_of_a_pass_are_augmented_as_on_the_cpu():
    stored = torch.randint(256, (500, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    used = torch.arange(20, 500)
    augmented = AugmentedImages(stored.to(DEVICE), used, seed=1).of_pass(3)
    assert torch.equal(augmented[20:].cpu(), random_crop_flip(stored[20:], used, 1, 3))


def test_a_loss_that_is_not_finite_never_reaches_the_weights_though_nobody_waits():
    weight = torch.nn.Parameter(torch.ones(4, device=DEVICE))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    fuse(optimizer, DEVICE)
    watch = FiniteLoss(optimizer)
    values = [1.0, 2.0, float("nan"), 1.0, 1.0]
    for step, value in enumerate(values):
        optimizer.zero_grad()
        loss = weight.sum() * value
        assert watch.look(step, loss) is None
        before = copy.deepcopy(weight.data)
        loss.backward()
        optimizer.step()
        assert torch.equal(weight, before) == (step >= 2)
    step, loss = watch.first_bad()
    assert step == 2
    assert loss != loss


@pytest.mark.filterwarnings("ignore:out of memory")
def test_memory_runs_out_and_the_outcome_stays():
    recorded, eager = copies(None, "float32")
    x, _ = images(512)
    y = eager(x).argmax(1)
    attack = PGD(steps=3)
    expected = attack(eager, x, y)
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info(DEVICE)
    used = torch.cuda.memory_reserved(DEVICE)
    torch.cuda.set_per_process_memory_fraction((used + 400e6) / total, DEVICE)
    try:
        with pytest.warns(UserWarning, match="out of memory with 512 images at a time"):
            found = attack(recorded, x, y)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)
    fooled = [eager(each).argmax(1) != y for each in (found, expected)]
    assert (fooled[0] != fooled[1]).sum().item() <= 4
    assert recorded.parts.limit < 512
