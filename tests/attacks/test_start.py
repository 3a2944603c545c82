from dataclasses import replace

import pytest
import torch

from qra import noise
from qra.attacks import GaussianStart, UniformStart, ZeroStart

X = torch.full((500, 3, 4, 4), 0.5)
INDEX = torch.arange(500)
EPS = 0.1


def draw(start, norm="linf", x=X, index=INDEX, epoch=0, restart=0):
    return start(x, EPS, norm, index, epoch, restart)


def test_the_zero_start_is_the_image():
    assert torch.equal(draw(ZeroStart()), torch.zeros_like(X))


def test_the_linf_start_is_uniform_between_minus_eps_and_eps():
    delta = draw(UniformStart())
    counts = torch.histc(delta, bins=20, min=-EPS, max=EPS)
    assert counts.sum() == delta.numel()
    expected = delta.numel() / 20
    assert ((counts - expected) ** 2 / expected).sum() < 50  # chi-squared with 19 degrees of freedom, p < 0.0002


def test_the_l2_start_is_uniform_in_the_ball():
    length = draw(UniformStart(), "l2").flatten(1).norm(dim=1)
    shares = (length / EPS) ** 48  # share of the ball's volume that lies further inside: uniform on [0, 1]
    assert shares.max() <= 1 + 1e-5
    counts = torch.histc(shares, bins=10, min=0, max=1)
    assert ((counts - 50) ** 2 / 50).sum() < 32  # chi-squared with 9 degrees of freedom, p < 0.0002


def test_the_l2_start_has_no_preferred_direction():
    delta = draw(UniformStart(), "l2").flatten(1)
    direction = delta / delta.norm(dim=1, keepdim=True)
    second_moment = direction.T @ direction / 500 * 48
    assert (second_moment - torch.eye(48)).abs().max() < 0.3
    assert direction.mean(0).abs().max() < 5 / (500 * 48) ** 0.5


def test_the_gaussian_start_is_normal_with_the_given_width():
    delta = draw(GaussianStart(0.02)) / 0.02
    assert abs(delta.mean()) < 0.03
    assert abs(delta.std() - 1) < 0.03
    assert abs((delta**4).mean() - 3) < 0.3


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("start", [UniformStart(), GaussianStart()])
def test_a_draw_depends_on_the_index_and_not_on_the_place_in_the_batch(start, norm):
    part = torch.tensor([7, 2])
    assert torch.equal(draw(start, norm, X[part], part), draw(start, norm)[part])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("start", [UniformStart(), GaussianStart()])
def test_another_seed_epoch_or_restart_gives_another_draw(start, norm):
    draws = [draw(start, norm), draw(start, norm, epoch=1), draw(start, norm, restart=1)]
    draws.append(draw(replace(start, seed=1), norm))
    for i, first in enumerate(draws):
        assert all(not torch.equal(first, second) for second in draws[i + 1 :])


def test_the_start_shares_no_draw_with_other_users_of_the_same_seed_and_epoch():
    u = draw(UniformStart(seed=3), epoch=2, restart=0) / (2 * EPS) + 0.5
    for key in [(3, 2), (3, 2, 0)]:
        other = noise.uniform(X.shape[1:], INDEX, *key)
        correlation = torch.corrcoef(torch.stack([u.flatten(), other.flatten()]))[0, 1]
        assert abs(correlation) < 5 / u.numel() ** 0.5


@pytest.mark.parametrize("start", [ZeroStart(), UniformStart(), GaussianStart()])
def test_a_start_has_the_type_of_the_images(start):
    assert draw(start, x=X.double()).dtype == torch.float64


@pytest.mark.parametrize("std", [0, -1, float("nan"), float("inf")])
def test_a_gaussian_start_without_width_is_refused(std):
    with pytest.raises(ValueError, match="std is"):
        GaussianStart(std)
