"""What the masking check makes of its findings, from findings made by hand; and which attacks it tries."""

import pytest
import torch
from torch import nn

from qra.attacks import PGD
from qra.evaluation import masking
from qra.evaluation.indicators import judge
from qra.evaluation.masking import MaskingSettings, ScaledLogits, measure, trials
from qra.types import Batch

N = 100
SETTINGS = MaskingSettings(queries=1, restarts=3, steps=4)


def found(**changes):
    """Findings of a network that is right about everything until it is attacked, and then about nothing."""
    yes, no = torch.ones(N, dtype=torch.bool), torch.zeros(N, dtype=torch.bool)
    one = torch.ones(N)
    return {
        **{"correct": yes, "random": 0 * one, "margin": one, "margin_change": 0 * one, "classes": one.long() * 4},
        **dict.fromkeys(("zero_cross_entropy", "zero_other_loss", "fooled_ever", "fooled_at_last"), no),
        **dict.fromkeys(("only_the_copy", "pgd", "pgd_small", "pgd_large", "unbounded"), no),
        "losses": torch.tensor([[0, 0.8, 0.9, 1.0]]).repeat(N, 1),
        **changes,
    }


def indicator(name, **changes):
    return next(each for each in judge(found(**changes), SETTINGS).indicators if each.name == name)


def first(count):
    return torch.arange(N) < count


def test_an_example_that_any_iterate_broke_says_nothing_of_convergence():
    losses = torch.tensor([[0, 0.8, 0.9, 1.0]]).repeat(N, 1)
    losses[first(50)] = torch.tensor([0, 0.1, 0.2, 1.0])
    assert indicator("late_gain", losses=losses, fooled_ever=first(50)).value == pytest.approx(0.1)
    assert indicator("late_gain", losses=losses).value == pytest.approx((0.1 + 0.8) / 2)


def test_an_overstatement_is_a_share_of_all_examples():
    assert indicator("more_steps", pgd=first(50), more_steps=first(40)).value == 0.1
    assert indicator("square", white_box=first(50), square=first(45)).value == 0.05


def test_a_loss_that_falls_and_rises_again_gains_nothing_late():
    losses = torch.tensor([[0, 1.0, 0.5, 0.9]]).repeat(N, 1)
    assert indicator("late_gain", losses=losses).value == 0


@pytest.mark.parametrize(("n", "suspect"), [(25, False), (100, True)])
def test_a_mean_is_suspect_only_beyond_its_own_error(n, suspect):
    late = torch.where(torch.arange(N) % 2 == 0, 0.1, 0.7)  # 0.4 in the mean, which has an error of 0.03 at n = 100
    losses = torch.stack([0 * late, 0.5 * (1 - late), 1 - late, 1 + 0 * late], 1)
    value = indicator("late_gain", losses=losses, fooled_ever=~first(n))
    assert value.value == pytest.approx(0.4, abs=0.02)
    assert value.suspect == suspect


def test_the_bend_of_a_curve_is_the_angle_between_its_two_parts():
    losses = torch.tensor([[0, 1.6, 2.0]]).repeat(N, 1)
    parts = torch.tensor([0.5, 0.8]), torch.tensor([0.5, 0.2])
    value = float(torch.cosine_similarity(*parts, dim=0))
    assert indicator("straight_loss_curve", losses=losses).value == pytest.approx(value)


@pytest.mark.parametrize("left", [(20, 0, 15), (0, 15, 0), (20, 5, 20)])
def test_accuracy_that_rises_from_any_budget_to_the_next_is_suspect(left):
    small, usual, large = map(first, left)
    value = indicator("rise_with_eps", pgd_small=small, pgd=usual, pgd_large=large)
    assert (value.value, value.suspect) == (0.15, True)


def test_each_trial_is_stronger_than_the_attack_in_question_in_the_way_that_it_says():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    tried = {each.name: each for each in trials(network, SETTINGS, 3, transfers=True)}
    eps, steps = SETTINGS.eps, SETTINGS.steps
    usual = {"eps": eps, "steps": steps, "restarts": 1, "loss": "cross_entropy", "early_stop": True}
    changes = {
        "pgd": {},
        "pgd_small": {"eps": eps / 4},
        "pgd_large": {"eps": 32 / 255},
        "unbounded": {"eps": 1.0, "steps": 2 * steps},
        "more_steps": {"steps": 5 * steps},
        "more_restarts": {"restarts": 4},
        "other_loss": {"loss": "dlr"},
        "scaled_logits": {},
        "transfer": {"early_stop": False},
    }
    for name, change in changes.items():
        attack = tried[name].attack
        assert isinstance(attack, PGD)
        assert {key: getattr(attack, key) for key in usual} == pytest.approx(usual | change)
    assert {each.among for each in tried.values()} == {"correct", "pgd", "white_box"}
    assert [name for name, each in tried.items() if each.among == "correct"] == [
        "pgd", "pgd_small", "pgd_large", "unbounded"
    ]  # fmt: skip


class Brightness(nn.Module):
    """Says class 1 above a brightness, the surer the farther from it; or the opposite."""

    def __init__(self, sign=1.0):
        super().__init__()
        self.sign = sign

    def forward(self, x):
        logit = self.sign * 100 * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([-logit, logit], 1)


def some_images():
    x = torch.tensor([0.2, 0.45, 0.55, 0.9]).view(-1, 1, 1, 1).repeat(1, 1, 2, 2)
    return Batch(x, torch.tensor([0, 0, 1, 0]), torch.arange(4))


def test_what_fools_the_copy_alone_is_asked_of_the_network():
    network = Brightness()
    tried = measure(network, Brightness(-1.0), some_images(), SETTINGS)
    assert tried["only_the_copy"].tolist() == [True, True, True, False]


def test_logits_are_scaled_by_the_gaps_of_images_that_the_network_gets_right(monkeypatch):
    made = []

    class Kept(ScaledLogits):
        def __init__(self, network, gaps):
            super().__init__(network, gaps)
            made.append(self.scale)

    monkeypatch.setattr(masking, "ScaledLogits", Kept)
    measure(Brightness(), Brightness(), some_images(), SETTINGS)
    assert made == [pytest.approx(200 * (0.3 + 0.05 + 0.05) / 3)]
