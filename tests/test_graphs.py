import copy
import gc
import weakref
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from recorders import Refusing, Replaying
from torch import nn
from torch.nn import functional as F

from qra import models
from qra.attacks import APGD, FAB, FGSM, PGD, Square
from qra.graphs import SIZES, padded
from qra.graphs.recording import Packing
from qra.modules.replays import TrainingReplays
from qra.precision import searching
from qra.quant import LSQ, PACT, DoReFa, LSQActivation, QuantScheme, convert, freeze, gradient_mode
from qra.quant.activations import ActivationQuantizer
from qra.quant.pact import pact

SCHEME = QuantScheme(DoReFa(), PACT(alpha=2.0), 4, 4)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return models.ResNet((1, 1), (4, 8)).eval()


@pytest.fixture
def quantized(network):
    convert(network, SCHEME)
    return network


def replaying(network, recorder=None):
    frozen = freeze(network)
    frozen.passes.replays.make_recorder = recorder or Replaying()
    frozen.passes.replays.worth = 1
    return frozen


def images(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, 8, 8, generator=generator), torch.randint(10, (n,), generator=generator)


def gradient(network, x, y):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(network(x), y, reduction="sum"), x)[0]


def test_a_batch_is_padded_to_the_next_size_and_a_large_one_is_not():
    assert [padded(n) for n in (1, 32, 33, 250, 1000, SIZES[-1])] == [32, 32, 48, 256, 1024, SIZES[-1]]
    assert padded(SIZES[-1] + 1) is None


@pytest.mark.parametrize("kind", ["network", "quantized"])
def test_replayed_logits_and_gradients_are_those_of_the_eager_copy_whatever_the_batch(kind, request):
    network = request.getfixturevalue(kind)
    frozen, eager = replaying(network), freeze(network)
    for seed, n in enumerate((40, 3, 48, 17, 40)):
        x, y = images(n, seed)
        torch.testing.assert_close(frozen(x), eager(x))
        torch.testing.assert_close(gradient(frozen, x, y), gradient(eager, x, y))
    assert len(frozen.passes.replays.recorded) == 4  # two sizes, with and without gradient


def test_a_result_is_not_overwritten_by_the_next_pass(network):
    frozen = replaying(network)
    (x, y), (other, _) = images(4), images(4, 1)
    logits, taken = frozen(x), gradient(frozen, x, y)
    kept = logits.clone(), taken.clone()
    frozen(other), gradient(frozen, other, y)
    assert torch.equal(logits, kept[0])
    assert torch.equal(taken, kept[1])


def test_a_backward_pass_is_right_after_other_passes_have_used_the_memory(network):
    frozen, eager = replaying(network), freeze(network)
    (x, y), (other, _) = images(5), images(40, 1)
    first, second = x.clone().requires_grad_(), x.clone().mul_(0.5).requires_grad_()
    losses = [F.cross_entropy(frozen(each), y, reduction="sum") for each in (first, second)]
    frozen(other)
    found = [torch.autograd.grad(loss, each)[0] for loss, each in zip(losses, (first, second), strict=True)]
    for each, expected in zip((first, second), found, strict=True):
        torch.testing.assert_close(gradient(eager, each, y), expected)


def test_refresh_reaches_recorded_passes_and_is_itself_recorded(quantized):
    recorder = Replaying()
    frozen = replaying(quantized, recorder)
    x, y = images(4)
    gradient(frozen, x, y)
    recorded = recorder.count
    for _ in range(4):
        with torch.no_grad():
            for parameter in quantized.parameters():
                parameter.add_(0.05 * torch.rand_like(parameter))
        frozen.refresh()
        torch.testing.assert_close(frozen(x), freeze(quantized)(x))
        torch.testing.assert_close(gradient(frozen, x, y), gradient(freeze(quantized), x, y))
    assert recorder.count == recorded + 2  # a pass without gradient, and the taking over


@pytest.mark.parametrize("mode", ["ste_soft", "hard"])
def test_each_gradient_mode_has_passes_of_its_own(quantized, mode):
    frozen, eager = replaying(quantized), freeze(quantized)
    x, y = images(4)
    before = gradient(frozen, x, y)
    with gradient_mode(frozen, mode), gradient_mode(eager, mode):
        torch.testing.assert_close(gradient(frozen, x, y), gradient(eager, x, y))
    assert torch.equal(gradient(frozen, x, y), before)


def test_each_precision_has_passes_of_its_own(network):
    frozen, eager = replaying(network), freeze(network)
    x, y = images(4)
    gradient(frozen, x, y)
    for precision in ("bfloat16", "float32"):
        with searching(precision, x.device):
            torch.testing.assert_close(gradient(frozen, x, y), gradient(eager, x, y))
    frozen.precision = eager.precision = "bfloat16"
    torch.testing.assert_close(gradient(frozen, x, y), gradient(eager, x, y))


@pytest.mark.parametrize(
    "attack",
    [
        PGD(steps=5),
        PGD(steps=11, early_stop=True, restarts=2),
        FGSM(),
        APGD(steps=6),
        APGD(loss="targeted_dlr", steps=5, targets=2),
        FAB(steps=3, targets=2),
        Square(queries=20),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_an_attack_ends_on_recorded_work_as_it_does_without(quantized, attack):
    x, _ = images(12)
    frozen, eager = replaying(quantized), freeze(quantized)
    y = eager(x).argmax(1)
    torch.testing.assert_close(attack(frozen, x, y), attack(eager, x, y))
    assert frozen.passes.replays.recorded
    assert not frozen.passes.replays.failed


def test_what_cannot_be_recorded_runs_eagerly_and_says_so_in_one_line_once(network):
    frozen = replaying(network, Refusing())
    x, y = images(4)
    with pytest.warns(UserWarning, match="without CUDA graphs, more slowly: operation not permitted") as caught:
        found = gradient(frozen, x, y)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert torch.equal(found, gradient(freeze(network), x, y))
    gradient(frozen, x, y)


@dataclass(frozen=True)
class Moody(ActivationQuantizer):
    """Quantizes otherwise each time, and does not say that it may be recorded."""

    learned: ClassVar[bool] = False
    calls: ClassVar[int] = 0

    def start(self, bit_width):
        return {}

    def quantize(self, x, bit_width, state, gradient):
        Moody.calls += 1
        return pact(x, 1.0 + Moody.calls, bit_width, gradient)


def test_quantizers_that_do_not_say_so_are_not_recorded(network):
    convert(network, QuantScheme(DoReFa(), Moody(), 4, 4))
    frozen = replaying(network)
    x, y = images(4)
    gradient(frozen, x, y), gradient(frozen, x, y)
    assert not frozen.passes.replays.recorded


def test_hooks_run_each_time(network):
    frozen = replaying(network)
    x, _ = images(4)
    frozen(x)
    seen = []
    handle = frozen.network.fc.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    frozen(x), frozen(x)
    handle.remove()
    assert len(seen) == 2


def test_a_batch_normalization_of_batch_statistics_is_not_padded():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()).eval()
    frozen = replaying(network)
    x, _ = images(5)
    torch.testing.assert_close(frozen(x), network(x))


def test_memory_is_released_with_the_network_and_when_it_moves(network):
    frozen = replaying(network)
    x, y = images(4)
    gradient(frozen, x, y)
    recorded = [weakref.ref(each) for each in frozen.passes.replays.recorded.values()]
    assert all(each() is not None for each in recorded)
    frozen.double()
    gc.collect()
    assert all(each() is None for each in recorded)
    gradient(frozen, x.double(), y)
    recorded = [weakref.ref(each) for each in frozen.passes.replays.recorded.values()]
    del frozen
    gc.collect()
    assert all(each() is None for each in recorded)


def test_a_copy_of_the_copy_has_recorded_nothing(network):
    frozen = replaying(network)
    x, _ = images(4)
    frozen(x)
    other = copy.deepcopy(frozen)
    assert not other.passes.replays.recorded
    torch.testing.assert_close(other(x), frozen(x))


def test_compiled_passes_of_many_sizes_compile_at_most_twice(network):
    torch.compiler.reset()
    counted = []

    def backend(graph, inputs):
        counted.append(len(inputs))
        return graph

    frozen = replaying(network)
    frozen.network.compile(backend=backend)
    for n in (32, 48, 64, 20, 96, 40):
        x, _ = images(n)
        with torch.no_grad():
            torch.testing.assert_close(frozen(x), freeze(network)(x))
    assert 1 <= len(counted) <= 2
    torch.compiler.reset()


# ----- training -----


def learner(scheme=None):
    torch.manual_seed(0)
    network = models.ResNet((1, 1), (4, 8)).train()
    if scheme is not None:
        convert(network, scheme)
    return network, torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)


def replays_for(recorders=Replaying):
    made = TrainingReplays("training", lambda device: recorders())
    return lambda network, x: (lambda y: network(x) if y is None else y)(made(network, x)), made


@pytest.mark.parametrize(
    "scheme", [None, SCHEME, QuantScheme(LSQ(), LSQActivation(), 4, 4)], ids=["float", "pact", "lsq"]
)
def test_twenty_recorded_training_steps_lose_as_eager_ones_do(scheme):
    run, made = replays_for()
    losses = []
    for forward in (lambda network, x: network(x), run):
        network, optimizer = learner(scheme)
        for step in range(20):
            x, y = images(8, step)
            optimizer.zero_grad()
            loss = F.cross_entropy(forward(network, x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        losses += [buffer.double().sum().item() for buffer in network.buffers()]
    half = len(losses) // 2
    assert losses[half:] == pytest.approx(losses[:half], rel=1e-4, abs=1e-6)
    assert len(made.recorded) == 1


def test_two_batches_may_wait_for_one_backward_pass():
    run, made = replays_for()
    grads = []
    for forward in (lambda network, x: network(x), run):
        network, _ = learner()
        for _ in range(2):
            (x, y), (other, _) = images(6), images(6, 1)
            network.zero_grad()
            (F.cross_entropy(forward(network, x), y) + forward(network, other).square().mean()).backward()
        grads.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(grads[1], grads[0])
    (slots,) = made.recorded.values()
    assert len(slots) == 2


def test_accumulated_gradients_are_sums():
    run, _ = replays_for()
    network, _ = learner()
    x, y = images(6)
    F.cross_entropy(run(network, x), y).backward()
    first = [parameter.grad.clone() for parameter in network.parameters()]
    F.cross_entropy(run(network, x), y).backward()
    torch.testing.assert_close([p.grad for p in network.parameters()], [2 * grad for grad in first])


def test_a_forward_pass_that_is_never_differentiated_gives_its_memory_back():
    run, made = replays_for()
    network, _ = learner()
    for step in range(6):
        run(network, images(6, step)[0])
    (slots,) = made.recorded.values()
    assert len(slots) == 1


def test_a_frozen_part_of_a_network_in_training_has_passes_of_its_own():
    run, made = replays_for()
    network, _ = learner()
    x, y = images(6)
    F.cross_entropy(run(network, x), y).backward()
    network.bn1.eval()
    network.conv1.weight.requires_grad_(False)
    expected = copy.deepcopy(network)(x)
    torch.testing.assert_close(run(network, x), expected)
    assert len(made.recorded) == 2


@pytest.mark.parametrize("moved", ["running_mean", "weight"])
def test_statistics_and_frozen_weights_that_moved_are_read_where_they_are(moved):
    run, made = replays_for()
    network, _ = learner()
    network.bn1.weight.requires_grad_(False)
    for _ in range(2):
        run(network, images(6)[0])
        tensor = getattr(network.bn1, moved)
        tensor.data = tensor.clone()
    assert len(made.recorded) == 2


class Sly(nn.Module):
    """Uses a weight behind the back of its modules."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(192, 10)
        self.known = [self.linear.weight]

    def forward(self, x):
        return self.linear(x.flatten(1)) + x.flatten(1) @ self.known[0].T


def test_a_parameter_that_is_used_otherwise_than_by_its_name_keeps_its_gradient():
    run, made = replays_for()
    network = Sly().train()
    x, y = images(6)
    with pytest.warns(UserWarning, match="in another way than by its name"):
        F.cross_entropy(run(network, x), y).backward()
    eager = Sly().train()
    eager.load_state_dict(network.state_dict())
    F.cross_entropy(eager(x), y).backward()
    torch.testing.assert_close(network.linear.weight.grad, eager.linear.weight.grad)
    assert made.failed


def test_evaluation_of_a_network_is_not_recorded():
    _, made = replays_for()
    network, _ = learner()
    assert made(network.eval(), images(4)[0]) is None


def test_training_that_cannot_be_recorded_leaves_statistics_alone_and_goes_on():
    run, _ = replays_for(Refusing)
    network, _ = learner()
    other = copy.deepcopy(network)
    x, _ = images(6)
    with pytest.warns(UserWarning, match="training runs without CUDA graphs"):
        torch.testing.assert_close(run(network, x), other(x))
    torch.testing.assert_close(list(network.buffers()), list(other.buffers()))


def test_packed_tensors_come_back_as_they_were():
    first, weights = torch.rand(3), torch.rand(8, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    double, spread = torch.rand(5, dtype=torch.float64), torch.ones(()).expand(7)
    packing = Packing()
    packed = packing.pack([first, None, weights, double, spread])
    assert [each.dtype for each in packed] == [torch.float32, torch.float64]
    found = packing.copies(packed)
    assert found[1] is None
    for copied, original in zip(found[:1] + found[2:], (first, weights, double, spread), strict=True):
        assert torch.equal(copied, original)
        assert copied.dtype == original.dtype
    assert found[2].is_contiguous(memory_format=torch.channels_last)
    packed[0].zero_()
    assert torch.equal(found[0], first)  # a copy
    assert Packing().pack([None]) == ()
