"""Images as bytes inside of an attack."""

import pytest
import torch
from small_networks import SmallNet, distance, draw_images, predict
from torch import nn

from qra.attacks import APGD, FAB, FGSM, PGD, AutoAttack, Square
from qra.attacks.pixels import OnBytes, check_bytes, levels, on_bytes, to_bytes
from qra.evaluation.robustness import attack_examples, robust
from qra.types import Batch


def test_bytes_are_the_nearest_ones_inside_the_ball():
    x = torch.arange(256).view(1, 1, 16, 16) / 255
    noise = 2 * torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)) - 1
    for size in (0.5, 1, 2, 8, 8.5):
        x_adv = (x + noise * size / 255).clamp(0, 1)
        rounded = to_bytes(x_adv, x, size / 255, "linf")
        codes = rounded * 255
        assert torch.equal(codes.round() / 255, rounded)
        assert (codes - x * 255).abs().max() <= int(size) + 1e-3
        assert (rounded - x_adv).abs().max() <= (0.5 if size >= 1 else 1) / 255 + 1e-6


@pytest.mark.parametrize("size", [0.7, 1.6, 2.5, 7.9])
def test_bytes_never_leave_the_ball_of_a_broken_number_of_levels(size):
    x = torch.arange(256).view(1, 1, 16, 16) / 255
    for sign in (1, -1):
        rounded = to_bytes((x + sign * size / 255).clamp(0, 1), x, size / 255, "linf")
        assert (rounded - x).abs().max() <= size / 255 + 1e-6
        assert (rounded - x).abs().max() * 255 == pytest.approx(int(size), abs=1e-3)


def test_an_attack_at_the_edge_of_the_ball_loses_nothing_as_bytes():
    x = torch.arange(20, 36).view(1, 1, 4, 4) / 255
    assert torch.equal(to_bytes(x + 8 / 255, x, 8 / 255, "linf"), torch.arange(28, 44).view(1, 1, 4, 4) / 255)


def test_bytes_in_l2_are_near_and_never_leave_the_ball():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (8, 3, 32, 32), generator=generator) / 255
    for eps in (0.02, 0.1, 0.5):
        delta = torch.randn(x.shape, generator=generator)
        x_adv = (x + eps * delta / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp(0, 1)
        rounded = to_bytes(x_adv, x, eps, "l2")
        assert (rounded * 255 - (rounded * 255).round()).abs().max() < 1e-4
        assert distance(rounded, x, "l2").max() <= eps + 1e-6
        if eps == 0.5:
            assert distance(rounded, x, "l2").min() > 0.95 * distance(x_adv, x, "l2").min()


def test_rounding_is_differentiated_straight_through():
    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(OnBytes(nn.Sequential(nn.Flatten(), nn.Linear(48, 5)))(x).sum(), x)
    assert gradient.abs().min() > 0
    assert torch.equal(OnBytes(nn.Identity())(x), (x * 255).round() / 255)


def test_a_radius_is_rounded_down_to_whole_levels():
    assert [levels(each / 255) for each in (0.5, 1, 8, 8.7)] == [0, 1, 8, 8]
    assert on_bytes(PGD(8.7 / 255)).eps == 8 / 255
    assert on_bytes(PGD(8 / 255)) == PGD(8 / 255)
    assert on_bytes(PGD(0.5, norm="l2")).eps == 0.5


def test_a_radius_below_one_level_is_refused():
    with pytest.raises(ValueError, match=r"eps is 0.5/255, but with pixels: bytes .* at least 1/255"):
        on_bytes(PGD(0.5 / 255))


def test_images_that_are_no_bytes_are_refused():
    check_bytes(torch.arange(256).view(1, 1, 16, 16) / 255)
    with pytest.raises(ValueError, match="pixels are bytes, but an image has a pixel"):
        check_bytes(torch.full((1, 1, 2, 2), 0.5))


ATTACKS = [
    PGD(9 / 255, 2 / 255, 10, early_stop=True),
    PGD(9 / 255, 2 / 255, 10),
    FGSM(9 / 255),
    APGD(9 / 255, steps=10),
    FAB(9 / 255, steps=10),
    Square(9 / 255, queries=40),
    AutoAttack(9 / 255, steps=5, queries=10),
    PGD(0.3, 0.07, 10, norm="l2", early_stop=True),
    APGD(0.3, "l2", steps=10),
    FAB(0.3, "l2", steps=10),
    Square(0.3, "l2", queries=40),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.key}-{attack.norm}-{attack.eps:.2f}")
def test_every_success_is_one_of_real_bytes_in_the_ball(attack):
    network = SmallNet().eval()
    x = (draw_images(3, 40) * 255).round() / 255
    y = predict(network, x)
    found = attack_examples(network, attack, Batch(x, y, torch.arange(40)), pixels="bytes")
    assert 0 < int(found.correct.sum()) < 40
    real = (found.x_adv * 255).round().to(torch.uint8).double() / 255
    assert (found.x_adv - real).abs().max() < 1e-9
    assert torch.equal(predict(network, real) == y, found.correct)
    assert distance(real, x, attack.norm).max() <= attack.eps + 1e-6


def test_an_attack_on_bytes_sees_nothing_but_bytes():
    network, seen = SmallNet().eval(), []
    search = SmallNet().eval()
    search.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach() * 255))
    x = (draw_images(3, 8) * 255).round() / 255
    attack = PGD(3 / 255, 0.7 / 255, 4, early_stop=True)
    attack_examples(network, attack, Batch(x, predict(network, x), torch.arange(8)), search, "bytes")
    assert len(seen) >= 4
    assert all((images - images.round()).abs().max() < 1e-9 for images in seen)


class Terraces(nn.Module):
    """Between two bytes, everything is an error; on bytes only some are."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        off = (x * 255 - (x * 255).round()).abs().flatten(1).amax(1, keepdim=True) > 1e-3
        logits = self.network(x)
        return torch.where(off, -logits, logits)


def test_images_between_bytes_break_nothing_where_the_network_receives_bytes():
    network = Terraces(SmallNet().eval())
    x = (draw_images(3, 20) * 255).round() / 255
    batch = Batch(x, predict(network, x), torch.arange(20))
    attack = PGD(1 / 255, 0.3 / 255, 5, early_stop=True)
    assert not robust(network, attack, *batch).any()
    assert attack_examples(network, attack, batch, pixels="bytes").correct.float().mean() > 0.7
