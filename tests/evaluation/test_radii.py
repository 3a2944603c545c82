"""Smallest perturbations: their file, and networks compared by them."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from test_store import ABOUT, attack
from torch import nn

from qra.attacks import FMN
from qra.evaluation import store
from qra.evaluation.outcome import read_result
from qra.evaluation.radii import Radii, paired_radii, radii_of, read_radii, smallest_perturbations
from qra.evaluation.statistics import hodges_lehmann, wilcoxon
from qra.types import Batch


def radii(values, limit=0.9):
    """Radii in levels; infinite ones are censored."""
    distance = torch.tensor(values, dtype=torch.float64) / 255
    return radii_of(torch.arange(len(values)), torch.stack([distance, torch.full_like(distance, limit)], 1))


def outcome(name, values, **more):
    found = radii(values)
    return attack(name, found.correct(8 / 255).tolist(), radii=found, **more)


def gathered_by(directory, *outcomes):
    gathered, _ = store.gather(directory, ABOUT, outcomes, {"command": "test"})
    store.write(directory, gathered)
    return read_radii(directory, {each.name: each for each in gathered.measured()})


def test_a_censored_example_has_the_largest_distance_and_is_marked():
    found = radii([0, 5, math.inf])
    assert found.radius.tolist() == [0, 5 / 255, 0.9]
    assert found.found.tolist() == [True, True, False]
    assert found.summary() == {"median": 5 / 255, "quartiles": [2.5 / 255, pytest.approx((5 / 255 + 0.9) / 2)],
                               "wrong": 1, "censored": 1}  # fmt: skip


@pytest.mark.parametrize(("norm", "farthest"), [("linf", 0.75), ("l2", 0.75 * math.sqrt(12))])
def test_where_nothing_is_found_the_distance_is_that_of_the_farthest_corner(norm, farthest):
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    nn.init.zeros_(network[1].weight)  # the same class for every image
    with torch.no_grad():
        network[1].bias.copy_(torch.tensor([1.0, 0.0]))
    batch = Batch(torch.full((2, 3, 2, 2), 0.25), torch.tensor([0, 1]), torch.arange(2))
    found = smallest_perturbations(network, FMN(norm=norm, steps=2), batch, network, "float", lambda *_: None)
    assert found[:, 0].tolist() == [math.inf, 0]
    assert found[:, 1].tolist() == pytest.approx([farthest] * 2)


def test_an_example_at_the_budget_is_broken():
    assert radii([8]).correct(8 / 255).tolist() == [False]
    assert radii([8.01]).correct(8 / 255).tolist() == [True]


def test_an_example_for_which_nothing_was_found_is_correct_at_any_budget():
    assert radii([math.inf, 3]).correct(1.0).tolist() == [True, False]


def test_distances_of_several_tests_gather_and_keep_their_names(tmp_path):
    gathered_by(tmp_path, outcome("fmn_8", [1, 9]))
    found = gathered_by(tmp_path, outcome("fmn_8", [2, 10, 11], seed=1), attack("pgd", [1, 0], seed=5))
    assert found["fmn_8"].radius.tolist() == pytest.approx([2 / 255, 10 / 255, 11 / 255])
    assert found["fmn_8-2"].radius.tolist() == pytest.approx([1 / 255, 9 / 255])
    assert read_result(tmp_path / "result.json")["outcomes"]["fmn_8"]["radii"]["median"] == pytest.approx(10 / 255)


def test_the_same_attack_again_replaces_its_distances(tmp_path):
    gathered_by(tmp_path, outcome("fmn_8", [1, 9]))
    assert gathered_by(tmp_path, outcome("fmn_8", [2, 9]))["fmn_8"].radius.tolist() == pytest.approx([2 / 255, 9 / 255])


@pytest.mark.parametrize(
    "change", [{"radius": [0.5, 0.5]}, {"radius": [math.nan, 0.1]}, {"indices": [1, 1]}, {"found": [1, 0]}]
)
def test_distances_that_contradict_the_result_or_cannot_be_are_not_read(tmp_path, change):
    known = gathered_by(tmp_path, outcome("fmn_8", [1, 9]))
    assert known
    arrays = dict(np.load(tmp_path / "radii.npz"))
    arrays |= {f"fmn_8.{key}": np.array(value) for key, value in change.items()}
    np.savez(tmp_path / "radii.npz", **arrays)
    assert gathered_by(tmp_path, attack("pgd", [1, 0], seed=5)) == {}


@pytest.mark.parametrize("n", [1, 6, 20, 50, 51, 400])
def test_wilcoxon_agrees_with_scipy(n):
    differences = torch.randn(n, generator=torch.Generator().manual_seed(n)) + 0.2
    expected = stats.wilcoxon(differences.double().numpy()).pvalue
    assert wilcoxon(torch.cat([differences, torch.zeros(5)])) == pytest.approx(expected, rel=1e-9)


def test_wilcoxon_of_ties_agrees_with_scipy_and_with_counting_all_signs():
    many = torch.randint(-3, 5, (300,), generator=torch.Generator().manual_seed(0)).double()
    expected = stats.wilcoxon(many[many != 0].numpy()).pvalue
    assert wilcoxon(many) == pytest.approx(expected, rel=1e-9)
    few = torch.tensor([1.0, 1, 2, -1, 3, 3, -2, 3])
    ranks = stats.rankdata(few.abs())
    signs = np.array(np.meshgrid(*[[0, 1]] * len(few))).reshape(len(few), -1)
    sums, seen = ranks @ signs, ranks[few.numpy() > 0].sum()
    tail = min((sums <= seen).mean(), (sums >= seen).mean())
    assert wilcoxon(few) == pytest.approx(min(1, 2 * tail))


def test_no_difference_has_p_1():
    assert wilcoxon(torch.zeros(7)) == 1.0
    assert hodges_lehmann(torch.zeros(7)) == (0.0, 0.0)


@pytest.mark.parametrize("n", [40, 41, 43])
def test_the_shift_is_the_median_of_all_means_of_two(n):
    values = torch.randn(n, generator=torch.Generator().manual_seed(1)).double()
    means = [(values[i] + values[j]).item() / 2 for i in range(n) for j in range(i, n)]
    shift, error = hodges_lehmann(values)
    assert shift == pytest.approx(np.median(means), abs=1e-9)
    assert error == pytest.approx(float(values.std()) / math.sqrt(n), rel=0.3)
    assert hodges_lehmann(-values)[0] == pytest.approx(-shift, abs=1e-9)
    assert hodges_lehmann(torch.full((n,), 2.0))[0] == pytest.approx(2)


@pytest.mark.parametrize("share", [1.0, 0.9, 0.8])
def test_distances_in_whole_levels_tell_the_shift_and_its_error(share):
    generator = np.random.default_rng(0)
    first = 4 * np.exp(0.6 * generator.standard_normal(500))
    second = share * first * np.exp(0.15 * generator.standard_normal(500))
    exact, whole = (
        hodges_lehmann(torch.from_numpy(to_levels(second) - to_levels(first))) for to_levels in (np.asarray, np.ceil)
    )
    assert whole[0] == pytest.approx(exact[0], abs=2 * whole[1])
    assert exact[1] < whole[1] < 2 * exact[1]


def test_examples_that_tell_nothing_do_not_count():
    pair = paired_radii(radii([0, 0, 4, math.inf, math.inf, 3]), radii([0, 2, 4, math.inf, 5, 2]))
    assert pair.counts.tolist() == [False, True, True, False, True, True]


def test_pairs_are_of_shared_examples_and_those_that_neither_lost_are_tied():
    first = radii([0, 4, 6, math.inf, math.inf, 3])
    second = radii([0, 3, 7, math.inf, 5])
    pair = paired_radii(first, Radii(*(each[1:] for each in second)))
    assert (pair.n, pair.nearer, pair.farther) == (4, 2, 1)
    assert pair.differences[2] == 0
    assert pair.differences[3] == pytest.approx(5 / 255 - 0.9, abs=1e-6)
    assert paired_radii(first, Radii(second.indices + 100, *second[1:])) is None


@pytest.mark.parametrize(("norm", "whole"), [("linf", True), ("l2", False)])
def test_distances_of_bytes_are_whole_levels_in_linf_alone(norm, whole):
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[1.0, 1.0, 1.0, 0.5], [0.0, 0.0, 0.0, 0.0]]))
        network[1].bias.copy_(torch.tensor([-1.6, 0.0]))
    batch = Batch(torch.full((1, 1, 2, 2), 120 / 255), torch.tensor([0]), torch.tensor([0]))
    attack = FMN(norm=norm, steps=20)
    distances = smallest_perturbations(network, attack, batch, network, "bytes", lambda *_: None)
    levels = float(distances[0, 0]) * 255
    assert 0 < levels < math.inf
    assert (abs(levels - round(levels)) < 1e-9) == whole
