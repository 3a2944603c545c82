import pytest
import torch
from torch import nn

from qra.attacks import APGD, PGD, Square, ZeroStart
from qra.evaluation.robustness import attack_examples, is_correct, robust
from qra.types import Batch


class Sloped(nn.Module):
    """Two classes that differ in the mean pixel: below one half is class 0, and an attack needs to cross it."""

    def forward(self, x):
        mean = x.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5], 1)


def images(*levels):
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()


X = images(0.1, 0.45, 0.6, 0.9)
Y = torch.tensor([0, 0, 1, 0])  # the last one is wrong from the start


def test_correct_compares_the_largest_logit_with_the_label():
    assert is_correct(Sloped(), X, Y).tolist() == [True, True, True, False]


def test_robust_is_right_before_and_after_the_attack():
    attack = PGD(eps=0.07, step_size=0.02, steps=10, early_stop=True)
    assert robust(Sloped(), attack, X, Y, torch.arange(4)).tolist() == [True, False, True, False]


def test_eps_zero_gives_clean_accuracy():
    attack = PGD(eps=0, step_size=0, early_stop=True)
    assert torch.equal(robust(Sloped(), attack, X, Y, torch.arange(4)), is_correct(Sloped(), X, Y))


def test_the_start_noise_of_an_example_does_not_depend_on_the_batch_it_is_in():
    seen = {}

    class Spy(PGD):
        def first_iterate(self, x, index, epoch, restart):
            start = super().first_iterate(x, index, epoch, restart)
            seen.update(zip(index.tolist(), start, strict=True))
            return start

    attack = Spy(eps=0.01, step_size=0.005, steps=1, early_stop=True)
    indices = torch.tensor([10, 11, 12, 13])
    robust(Sloped(), attack, X, Y, indices)
    together = dict(seen)
    for place in range(3):
        robust(Sloped(), attack, X[place : place + 1], Y[place : place + 1], indices[place : place + 1])
    assert seen.keys() == {10, 11, 12}
    assert all(torch.equal(start, together[index]) for index, start in seen.items())
    assert not torch.equal(seen[10] - X[0], seen[11] - X[1])


def test_examples_that_are_wrong_anyway_are_not_attacked():
    seen = []

    class Spy(PGD):
        def perturb(self, model, x, y, index, epoch):
            seen.extend(index.tolist())
            return x

    robust(Sloped(), Spy(), X, Y, torch.tensor([10, 11, 12, 13]))
    assert seen == [10, 11, 12]


def test_the_images_of_an_attack_are_scored_by_the_network_itself():
    attack = PGD(eps=0.07, step_size=0.02, steps=10, early_stop=True)
    found = attack_examples(Sloped(), attack, Batch(X, Y, torch.arange(4)))
    assert torch.equal(found.correct, is_correct(Sloped(), found.x_adv, Y))
    assert torch.equal(found.x_adv[3], X[3])


class Hasty(nn.Module):
    """Crosses the boundary before :class:`Sloped` does; told ``precision`` is float32, only half as early."""

    def __init__(self, precision=None):
        super().__init__()
        self.precision = precision

    def forward(self, x):
        early = 0.02 if self.precision in (None, "float32") else 0.04
        return Sloped()(x + torch.where(x.mean((1, 2, 3), keepdim=True) < 0.5, early, -early))


SLOW_PGD = PGD(eps=0.07, step_size=0.005, steps=16, start=ZeroStart(), early_stop=True)


@pytest.mark.parametrize(
    ("attack", "precision"),
    [(SLOW_PGD, None), (SLOW_PGD, "float32"), (SLOW_PGD, "bfloat16"), (APGD(0.075, steps=16), None)],
)
def test_an_example_that_only_the_copy_gets_wrong_is_attacked_on(attack, precision):
    target = Hasty(precision)
    found = attack_examples(Sloped(), attack, Batch(X, Y, torch.arange(4)), target)
    assert found.correct.tolist() == [True, False, True, False]
    assert torch.equal(found.correct, is_correct(Sloped(), found.x_adv, Y))
    assert target.precision == precision


def test_square_is_judged_by_the_network_whatever_the_copy_says_of_clean_images():
    class Brighter(nn.Module):
        """Wrong about the second image from the start."""

        def forward(self, x):
            return Sloped()(x + 0.06)

    attack = Square(eps=0.07, queries=50)
    found = [robust(Sloped(), attack, X, Y, torch.arange(4), attack_network=each) for each in (Sloped(), Brighter())]
    assert found[0].tolist() == [True, False, True, False]
    assert found[1].tolist() == [True, False, True, False]
