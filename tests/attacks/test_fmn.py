"""FMN against an oracle of a few lines, stored distances of foolbox, and what a judge may ask of it."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import SmallNet, distance, draw_images, predict
from torch import nn

from qra.attacks import FMN, AttackState
from qra.attacks.fmn import largest_distance
from qra.attacks.pixels import OnBytes
from qra.evaluation.radii import smallest_perturbations
from qra.types import Batch

ROOM = {"linf": 1.0, "l2": 100.0}


def oracle(model, x, y, norm, steps):
    """The smallest perturbation of one image by algorithm 1 of Pintor et al. 2021; None if none is found."""
    order = math.inf if norm == "linf" else 2
    delta, eps, best = torch.zeros_like(x), 0.0, math.inf
    limit = torch.linalg.vector_norm(torch.maximum(x, 1 - x).flatten(), order).item()
    for step in range(steps):
        share = (1 + math.cos(math.pi * step / steps)) / 2
        alpha, gamma = 0.01 + 0.99 * share, 0.001 + 0.049 * share
        x_adv = (x + delta).requires_grad_()
        logits = model(x_adv[None])[0]
        loss = max(logit for label, logit in enumerate(logits) if label != y) - logits[y]
        (gradient,) = torch.autograd.grad(loss, x_adv)
        size = torch.linalg.vector_norm(delta.flatten(), order).item()
        if loss > 0:
            best = min(best, size)
            eps = min(eps * (1 - gamma), best)
        elif best < math.inf:
            eps = eps * (1 + gamma)
        else:
            dual = 1 if norm == "linf" else 2
            eps += abs(loss.item()) / torch.linalg.vector_norm(gradient.flatten(), dual).item()  # paper: size + ...
            eps *= 1.0001  # not in the paper
        eps = min(eps, limit)
        delta = delta + alpha * gradient / torch.linalg.vector_norm(gradient.flatten())
        if norm == "linf":
            delta = delta.clamp(-eps, eps)
        else:
            delta = delta * min(1.0, eps / torch.linalg.vector_norm(delta.flatten()).item())
        delta = (x + delta).clamp(0, 1) - x
    return best if best < math.inf else None


def smooth_network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(108, 32), nn.Tanh(), nn.Linear(32, 5)).double().eval()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_distances_are_those_of_the_oracle(norm):
    model, x = smooth_network(), draw_images(3, 8)
    y = predict(model, x)
    x_adv = FMN(ROOM[norm], norm, steps=40)(model, x, y)
    expected = [oracle(model, image, int(label), norm, 40) for image, label in zip(x, y, strict=True)]
    found = [place for place, radius in enumerate(expected) if radius is not None]
    assert len(found) > 4
    assert (predict(model, x_adv) != y)[found].all()
    radii = torch.tensor([expected[place] for place in found], dtype=x.dtype)
    torch.testing.assert_close(distance(x_adv, x, norm)[found], radii, rtol=1e-6, atol=0)


@pytest.fixture(scope="module")
def foolbox():
    with np.load(Path(__file__).parents[1] / "golden" / "fmn.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_distances_are_those_of_foolbox(foolbox, norm):
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5)
    ).eval()
    network.load_state_dict({name[4:]: value for name, value in foolbox.items() if name.startswith("net.")})
    x, y, found = foolbox["u8"] / 255, foolbox["y"], foolbox[f"{norm}.found"]
    x_adv = FMN(ROOM[norm], norm)(network, x, y)
    assert (predict(network, x_adv) != y)[found].all()
    radius, expected = distance(x_adv, x, norm)[found], foolbox[f"{norm}.radius"][found]
    assert float(radius.median()) == pytest.approx(float(expected.median()), rel=0.02)
    torch.testing.assert_close(radius, expected, rtol=0.02, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_example_within_eps_is_broken_and_no_other(norm):
    model, x = SmallNet(), draw_images(0, 16)
    y = predict(model, x)
    radius = distance(FMN(ROOM[norm], norm, 20)(model, x, y), x, norm)
    eps = float(radius[radius > 0].median()) * (1 + 1e-9)  # an example lies on the median, but for rounding
    x_adv = FMN(eps, norm, 20)(model, x, y)
    assert torch.equal(predict(model, x_adv) != y, (radius > 0) & (radius <= eps))


@pytest.mark.parametrize("scale", [1e-25, 1e-6, 1e25])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_scale_of_logits_does_not_matter(norm, scale):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = SmallNet().float()

        def forward(self, x):
            return scale * self.network(x)

    x = draw_images(0, 8).float()
    y = predict(Scaled(), x)
    expected = distance(FMN(ROOM[norm], norm, 20)(SmallNet().float(), x, y), x, norm)
    radius = distance(FMN(ROOM[norm], norm, 20)(Scaled(), x, y), x, norm)
    assert int((expected > 0).sum()) > 4
    torch.testing.assert_close(radius, expected, rtol=1e-2, atol=0)


def measured(model, x, y, pixels="float", norm="linf", search=None):
    batch = Batch(x, y, torch.arange(len(x)))
    search = model if search is None else search
    return smallest_perturbations(model, FMN(8 / 255, norm, 30), batch, search, pixels, lambda *_: None)


def test_what_is_wrong_without_an_attack_has_radius_0_and_what_is_never_broken_none():
    model, x = SmallNet().eval(), draw_images(1, 12).float()
    model.float()
    y = predict(model, x)
    y[0] = (y[0] + 1) % 5
    found = measured(model, x, y)
    assert found[0, 0] == 0
    assert (found[1:, 0] > 0).all()
    torch.testing.assert_close(found[:, 1], largest_distance(x, "linf").flatten().double())
    deaf = nn.Sequential(nn.Flatten(), nn.Linear(108, 5)).eval()
    nn.init.zeros_(deaf[1].weight)
    assert measured(deaf, x, deaf(x).argmax(1))[:, 0].isinf().all()


def test_distances_of_bytes_are_whole_levels_at_which_bytes_are_wrong():
    model, x = SmallNet().eval().float(), (draw_images(1, 12) * 255).round().float() / 255
    y = predict(model, x)
    found, real = measured(model, x, y, "bytes")[:, 0], measured(model, x, y)[:, 0]
    assert torch.equal((found * 255).round() / 255, found)
    known = found.isfinite()
    assert int(known.sum()) > 6
    assert float((found - real)[known].abs().median()) <= 1 / 255
    state = AttackState(OnBytes(model), x, y)
    FMN(float(found[known].max()) + 1e-6, "linf", 30).run(state)
    assert torch.equal(state.broken, known)


class Shifted(nn.Module):
    """A network whose first logit is larger than that of the copy that is searched on."""

    def __init__(self, network, label):
        super().__init__()
        self.network, self.label = network, label

    def forward(self, x):
        return self.network(x) + 0.2 * nn.functional.one_hot(torch.tensor(self.label), 5)


def test_only_images_that_the_network_itself_gets_wrong_count():
    model, x = SmallNet().eval().float(), draw_images(0, 24).float()
    y = predict(model, x)
    same = y == y.mode().values
    judge, x, y = Shifted(model, int(y.mode().values)).eval(), x[same], y[same]
    radius = measured(judge, x, y, search=model)[:, 0]
    assert (radius >= measured(model, x, y)[:, 0]).all()
    assert (radius > measured(model, x, y)[:, 0] + 1e-3).any()


@pytest.mark.parametrize(
    ("settings", "reason"), [({"gamma": 1.0}, "gamma is 1.0"), ({"steps": 0}, "steps is 0"), ({"eps": 8}, "8/255")]
)
def test_a_setting_out_of_range_is_refused(settings, reason):
    with pytest.raises(ValueError, match=reason):
        FMN(**settings)
