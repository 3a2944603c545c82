"""PGD against the official codes named in tests/golden/README.md."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from qra.attacks import FGSM, PGD, Start, ZeroStart

EPS = 8 / 255


@dataclass(frozen=True, eq=False)
class StoredStart(Start):
    """Starts at a stored perturbation of the whole data set."""

    deltas: torch.Tensor

    def __call__(self, x, eps, norm, indices, epoch, restart):
        return self.deltas[indices]


class UnclippedStartPGD(PGD):
    """Takes the first gradient at the noisy image as it is, outside [0, 1] perhaps, like one of the official codes."""

    def first_iterate(self, x, index, epoch, restart):
        return x + self.start(x, self.eps, self.norm, index, epoch, restart)


class Shifted(nn.Module):
    """A network behind input normalization."""

    def __init__(self, network, mean, std):
        super().__init__()
        self.network = network
        self.mean, self.std = mean.view(-1, 1, 1), std.view(-1, 1, 1)

    def forward(self, x):
        return self.network((x - self.mean) / self.std)


@pytest.fixture(scope="module")
def random_start(golden):
    return StoredStart((2 * golden["u01"] - 1) * EPS)


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 10, 20])
@pytest.mark.parametrize("kind", ["rs", "zero"])
def test_pgd_equals_the_official_iterates(golden, network, random_start, kind, steps):
    attack = UnclippedStartPGD(EPS, 2 / 255, steps, start=random_start if kind == "rs" else ZeroStart())
    assert_close(attack(network, golden["x"], golden["y"]), golden[f"pgd_eval.{kind}.{steps}.x_adv"])


def test_fgsm_with_a_given_step_equals_one_official_step(golden, network):
    attack = FGSM(EPS, step_size=2 / 255)
    assert_close(attack(network, golden["x"], golden["y"]), golden["pgd_eval.zero.1.x_adv"])


def test_kl_pgd_equals_the_official_iterates(golden, network, random_start):
    attack = UnclippedStartPGD(EPS, 2 / 255, 10, start=random_start, loss="kl")
    assert_close(attack(network, golden["x"], network(golden["x"])), golden["pgd_kl.rs.10.x_adv"])


def test_early_stop_leaves_examples_where_the_official_code_does(golden, network, random_start):
    attack = UnclippedStartPGD(EPS, 2 / 255, 10, start=random_start, early_stop=True)
    assert_close(attack(network, golden["x"], golden["y"]), golden["pgd_stop.rs.10.x_adv"])


@pytest.mark.parametrize("early_stop", [False, True])
def test_pgd_behind_normalization_equals_the_official_perturbation(golden, network, random_start, early_stop):
    model = Shifted(network, golden["norm_mean"], golden["norm_std"])
    attack = PGD(EPS, 2 / 255, 10, start=random_start, early_stop=early_stop)
    delta = attack(model, golden["x"], golden["y"]) - golden["x"]
    assert_close(delta, golden[f"rice_norm.early{int(early_stop)}.delta"])
