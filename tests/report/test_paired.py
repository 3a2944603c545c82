import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import by_name, cell, read

from qra.evaluation.measured import ThreatModel
from qra.report.contents import accuracies
from qra.report.paired import CLEAN, MARGIN, Effect, Gap, paired, strongest
from qra.report.verdicts import METHOD

numbers = st.floats(-1, 1)


@given(numbers, numbers, numbers)
def test_an_effect_is_one_thing_only(a, b, c):
    low, mean, high = sorted((a, b, c))
    effect = Effect(mean, low, high)
    assert effect.is_higher + effect.is_lower + effect.is_none <= 1


@pytest.mark.parametrize(
    ("effect", "title"),
    [
        (Effect(0.05, 0.01, 0.09), "higher"),
        (Effect(-0.05, -0.09, -0.01), "lower"),
        (Effect(0.01, 0.005, 0.015), "none"),  # sure, and of no matter
        (Effect(0.05, -0.01, 0.11), "unclear"),
        (Effect(0.01, -0.03, 0.05), "unclear"),
    ],
)
def test_titles_of_effects(effect, title):
    assert effect.title == title
    assert MARGIN == 0.02


def compared(study, first, second, **more):
    cell(study, "a", {"clean": first}, quantizer="pact", **more)
    cell(study, "b", {"clean": second})
    pipelines = by_name(read(study))
    return paired(pipelines["a"], pipelines["b"], ("a", "b"), (CLEAN, CLEAN))


def test_the_interval_is_that_of_agresti_and_min(tmp_path):
    """Theirs: half an example more in each cell of the table of who is correct, in the middle too."""
    comparison = compared(tmp_path, 0.6, 0.5)
    lost, gained, n = 0.5, 100.5, 1002
    error = np.sqrt(lost + gained - (gained - lost) ** 2 / n) / n
    effect = comparison.effect(1)
    assert comparison.n == 1000
    assert effect.mean == pytest.approx(0.1)
    assert (effect.high - effect.low) / 2 == pytest.approx(1.959964 * error, rel=1e-6)
    assert (effect.high + effect.low) / 2 == pytest.approx(100 / 1002)


def test_networks_that_agree_everywhere_still_have_an_interval(tmp_path):
    effect = compared(tmp_path, 0.5, 0.5).effect(1)
    assert effect.low < 0 < effect.high
    assert effect.is_none


def test_examples_are_matched_by_index(tmp_path):
    comparison = compared(tmp_path, 0.5, 0.5, n=600)
    assert comparison.n == 600
    assert comparison.accuracies[0] == 0.5


def test_five_seeds_against_one_network_have_an_interval_that_covers_the_seeds(tmp_path):
    cell(tmp_path, "float", {"clean": 0.8})
    for seed, accuracy in enumerate((0.5, 0.6, 0.7, 0.8, 0.9)):
        cell(tmp_path, f"q{seed}", {"clean": accuracy}, quantizer="pact", seed=seed)
    results = read(tmp_path)
    original, quantized = results.pipelines
    effect = paired(quantized, original, ("", ""), (CLEAN, CLEAN)).effect(1)
    assert effect.mean == pytest.approx(-0.1)
    of_seeds = 2.776 * np.std([0.5, 0.6, 0.7, 0.8, 0.9], ddof=1) / np.sqrt(5)  # Student's t
    assert (effect.high - effect.low) / 2 == pytest.approx(of_seeds, rel=0.1)
    assert all("from 5 seeds on" in note for note in (METHOD, accuracies(results).note))


def test_many_seeds_of_which_few_match_are_compared_by_those(tmp_path):
    for seed in range(5):
        cell(tmp_path, f"q{seed}", {"clean": 0.6}, quantizer="pact", seed=seed)
        cell(tmp_path, f"f{seed}", {"clean": 0.8}, seed=seed + 4)
    original, quantized = read(tmp_path).pipelines
    comparison = paired(quantized, original, ("", ""), (CLEAN, CLEAN))
    assert [pair.names for pair in comparison.seeds] == [("q4", "f0")]
    assert comparison.effect(1).is_lower


def test_why_two_pipelines_cannot_be_compared_is_said(tmp_path):
    cell(tmp_path, "a", {"clean": 0.6})
    cell(tmp_path, "b", {"clean": 0.6}, quantizer="lost")
    (tmp_path / "b/correct.npz").unlink()
    cell(tmp_path, "e", {"clean": 1.0}, quantizer="lsq", n=1)
    for seed in (1, 2):
        cell(tmp_path, f"c{seed}", {"clean": 0.6}, quantizer="pact", seed=seed)
        cell(tmp_path, f"d{seed}", {"clean": 0.6}, quantizer="dorefa", seed=seed + 2)
    pipelines = by_name(read(tmp_path))
    pairs = ("a", "b"), ("c1", "d1"), ("a", "e")
    found = [paired(pipelines[a], pipelines[b], ("", ""), (CLEAN, CLEAN)) for a, b in pairs]
    assert found == [Gap.FILES, Gap.SEEDS, Gap.EXAMPLES]


def test_the_attacks_that_all_cells_have_met_count_if_one_of_them_stands_alone(tmp_path):
    cell(tmp_path, "a", {"pgd9_8": 0.5, "pgd20_8": 0.4, "pgd50_8_hard": 0.8, "pgd20_4": 0.5, "pgd9_4_hard": 0.9})
    cell(tmp_path, "b", {"pgd20_8": 0.4, "pgd50_8_hard": 0.8, "pgd9_4_hard": 0.9, "pgd9_4": 0.9}, quantizer="pact")
    first, second = read(tmp_path).pipelines
    assert set(strongest(first, second, ThreatModel("linf", 8 / 255)).kinds) == {"PGD-20", "PGD-50, hard"}
    assert strongest(first, second, ThreatModel("linf", 4 / 255)) is None  # they share the attack with true gradients
    assert strongest(first, second, ThreatModel("linf", 2 / 255)) is None
