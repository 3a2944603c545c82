"""Networks that hide their gradients on purpose, each found out for the right reason, and sound ones left in peace."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from qra import losses
from qra.attacks import PGD
from qra.callbacks.masking import MaskingCheck, table, words
from qra.evaluation.indicators import CONFIDENCE, judge, noticed_from
from qra.evaluation.masking import MaskingSettings, ScaledLogits, measure, why_no_unrounded, zero_gradients
from qra.evaluation.sources import attack_networks
from qra.evaluation.statistics import wilson_interval
from qra.progress import EvaluationProgress
from qra.quant import PACT, DoReFa, QuantScheme, calibrate, convert
from qra.types import Batch

SETTINGS = MaskingSettings(queries=60, restarts=2, steps=10)
CLASSES = 4


def images(n=100, seed=1):
    """Noise of which the mean colour of a quarter of the image is the class."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % CLASSES
    x = 0.35 + 0.3 * torch.rand(n, 1, 8, 8, generator=generator)
    for number, label in enumerate(y.tolist()):
        row, column = 4 * (label // 2), 4 * (label % 2)
        x[number, :, row : row + 4, column : column + 4] += 0.12
    return Batch(x, y, torch.arange(n))


def fit(network, eps):
    """Train for some steps, adversarially if there is a budget."""
    x, y, _ = images(200, seed=2)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    attack = PGD(eps, eps / 2, 3)
    for step in range(60):
        part = slice(100 * (step % 2), 100 * (step % 2) + 100)
        x_adv = attack(network, x[part], y[part], epoch=step) if eps else x[part]
        optimizer.zero_grad()
        losses.cross_entropy(network(x_adv), y[part]).mean().backward()
        optimizer.step()
    return network.eval()


def untrained():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(32, CLASSES))


@pytest.fixture(scope="module")
def plain():
    return fit(untrained(), 0)


@pytest.fixture(scope="module")
def robust():
    return fit(untrained(), 4 / 255)


def quantized(network, bits=4):
    network = copy.deepcopy(network)
    convert(network, QuantScheme(DoReFa(), PACT(), bits, bits))
    calibrate(network, [images(50, seed=3).x])
    return network.eval()


def report(network, gradient="ste", surrogate=None, batch=None):
    (target,) = attack_networks(network, [gradient]).values()
    return judge(measure(network, target, images() if batch is None else batch, SETTINGS, surrogate), SETTINGS)


def suspects(found):
    return {indicator.name for indicator in found.indicators if indicator.suspect}


def test_a_plain_network_is_sound(plain):
    found = report(plain)
    assert found.reasons == []
    assert found.verdict == "sound"


def test_an_adversarially_trained_network_is_sound(robust):
    assert report(robust).reasons == []


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_network_attacked_straight_through_is_sound(robust, bits):
    assert report(quantized(robust, bits)).reasons == []


def test_rounding_with_its_true_derivative_is_found_out(robust):
    found = report(quantized(robust), "hard")
    assert {"unrounded", "polish"} <= suspects(found)
    assert {"zero_gradients_cross_entropy", "zero_gradients_margin"} <= suspects(found)
    assert found.verdict == "suspect"
    assert "straight through" in found.reasons[0]


def test_the_callback_attacks_by_the_gradient_that_it_is_given(robust):
    check = MaskingCheck(MaskingSettings(steps=4, restarts=1, queries=1), "hard", n=4)
    assert not list(check.evaluate(quantized(robust), [images(4)], EvaluationProgress(shown=False)))
    assert check._found["zero_cross_entropy"].all()


class Scaled(nn.Module):
    def __init__(self, network, scale):
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x):
        return self.network(x) * self.scale


def test_saturated_logits_are_found_out(plain):
    found = suspects(report(Scaled(plain, 1e3)))
    assert {"zero_gradients_cross_entropy", "scaled_logits"} <= found
    assert not {"zero_gradients_margin", "square", "polish"} & found  # they find no more than all with gradients do


def test_gradients_that_are_zero_or_not_finite_lead_nowhere():
    def network(x):
        brightness = x.mean((1, 2, 3))
        return torch.stack([torch.where(brightness > 0.9, brightness.detach(), brightness.sqrt()), brightness * 0], 1)

    x = torch.tensor([0.0, 0.5, 1.0])[:, None, None, None].expand(3, 1, 2, 2)
    assert zero_gradients(network, x, torch.zeros(3, dtype=torch.int64)).tolist() == [True, False, True]


class Random(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x + 0.05 * torch.randn(x.shape))


def test_randomness_is_found_out(plain):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert "randomness" in suspects(report(Random(plain)))


class Clipped(nn.Module):
    """Says class 0 whatever it sees."""

    def forward(self, x):
        flat = x.flatten(1)[:, :CLASSES]
        return flat.clamp(2, 3) + torch.tensor([1.0, 0.0, 0.0, 0.0])


def test_a_clipped_constant_is_found_out():
    found = suspects(report(Clipped()))
    assert {"unbounded", "large_budget", "zero_gradients_cross_entropy", "zero_gradients_margin"} <= found


class Staircase(nn.Module):
    """Sees only steps of 1/4, smoothed a little: gradients are there and point nowhere."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        wave = torch.sin(2000 * x) / 1000
        return self.network((x * 32).round() / 32 + wave)


def test_gradients_that_point_nowhere_are_found_out(plain):
    found = suspects(report(Staircase(plain), surrogate=plain))
    assert "transfer" in found
    assert "square" in found


def test_logits_are_scaled_to_a_usual_gap_of_one(plain):
    x = images(20).x
    sharp = Scaled(plain, 50.0)
    gaps = sharp(x).detach().topk(2).values.diff(dim=1).abs().flatten()
    softer = ScaledLogits(sharp, gaps)(x).detach().topk(2).values.diff(dim=1).abs()
    assert softer.mean() == pytest.approx(1, rel=1e-4)
    assert torch.equal(ScaledLogits(plain, gaps * 0)(x), plain(x))


@dataclass(frozen=True)
class NoGrid(PACT):
    """A quantizer of one's own, which says no grid."""

    def quantize(self, x, bit_width, state, gradient):
        return super().quantize(x, bit_width, state, gradient)


def test_an_unrounded_network_that_is_not_available_is_named(robust):
    network = copy.deepcopy(robust)
    convert(network, QuantScheme(DoReFa(), NoGrid(), 4, 4))
    (target,) = attack_networks(network, ["ste"]).values()
    found = judge(measure(network, target, images(12), SETTINGS), SETTINGS, why_no_unrounded(network))
    (unrounded,) = (indicator for indicator in found.indicators if indicator.name == "unrounded")
    assert unrounded.value is None
    assert "not tried: the unrounded network is not available: at 1, NoGrid does not define" in unrounded.meaning


def test_few_examples_raise_no_false_alarm(robust):
    assert report(robust, batch=images(12)).verdict == "sound"


def test_each_indicator_has_words_and_a_value(robust):
    found = report(robust)
    names = [indicator.name for indicator in found.indicators]
    assert len(set(names)) == len(names)
    assert [indicator.name for indicator in found.indicators if indicator.value is None] == ["unrounded", "transfer"]
    assert len(found.losses) == SETTINGS.steps + 1
    assert found.losses[-1] > found.losses[0]


def test_the_network_is_left_as_it_was(robust):
    before = {name: value.clone() for name, value in robust.state_dict().items()}
    state = torch.get_rng_state()
    report(robust)
    assert all(torch.equal(value, before[name]) for name, value in robust.state_dict().items())
    assert all(parameter.requires_grad for parameter in robust.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("settings", [{"eps": 0}, {"eps": 0.2}, {"steps": 1}, {"queries": 0}, {"restarts": 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=r"eps|at least"):
        MaskingSettings(**settings)


def test_the_verdict_says_how_small_an_overstatement_it_does_not_notice(robust):
    found = report(robust, batch=images(12))
    assert found.limits["more steps"] == noticed_from(0.005, 12)
    assert found.summary()["detection_limit"] == max(found.limits.values())
    assert "transfer" not in found.limits  # there is no surrogate
    said = words(found)
    assert said.startswith("Verdict: sound.")
    assert all(f"{100 * limit:.1f} points by {what}" in said for what, limit in found.limits.items())


@pytest.mark.parametrize(("n", "threshold"), [(1, 0.9), (50, 0.002), (200, 0.005), (1000, 0.05)])
def test_an_overstatement_is_noticed_from_the_first_count_that_is_beyond_the_threshold(n, threshold):
    def is_beyond(count):
        return wilson_interval(count, n, CONFIDENCE)[0] > threshold

    expected = next((count for count in range(n + 1) if is_beyond(count)), n)
    assert noticed_from(threshold, n) == expected / n


def test_every_indicator_says_in_a_line_what_it_is(robust):
    found = report(robust, batch=images(12))
    assert all(0 < len(indicator.meaning) < 120 for indicator in found.indicators)
    rows = table(found).columns[-1]._cells
    assert rows == [indicator.meaning for indicator in found.indicators]
    assert "qra's own" in found.summary()["about"]
