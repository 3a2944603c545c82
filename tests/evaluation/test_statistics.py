import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from qra.evaluation.statistics import mcnemar, shared, wilson_interval


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_wilson_agrees_with_scipy(counts, confidence):
    expected = binomtest(*counts).proportion_ci(confidence, method="wilson")
    assert wilson_interval(*counts, confidence) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("counts", [(0, 0), (-1, 5), (6, 5)])
def test_what_is_no_proportion_is_refused(counts):
    with pytest.raises(ValueError, match="not a proportion"):
        wilson_interval(*counts)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_agrees_with_scipy(lost, gained):
    expected = binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert mcnemar(lost, gained) == pytest.approx(expected, rel=1e-12)


def test_mcnemar_of_many_pairs_is_exact_too():
    assert mcnemar(2600, 2400) == pytest.approx(binomtest(2600, 5000).pvalue, rel=1e-9)
    assert mcnemar(0, 3000) == 0.0


def test_mcnemar_refuses_what_is_no_count():
    with pytest.raises(ValueError, match="never negative"):
        mcnemar(-1, 3)


RUNS = [
    (torch.tensor([7, 3, 5, 1]), torch.tensor([True, False, True, True])),
    (torch.tensor([1, 2, 3, 7]), torch.tensor([False, True, True, True])),
]


def test_runs_are_paired_by_index_whatever_their_order():
    indices, correct = shared(RUNS)
    assert indices.tolist() == [1, 3, 7]
    assert correct.tolist() == [[True, False, True], [False, True, True]]


def test_runs_on_the_same_positions_are_put_in_order():
    positions = RUNS[0][0]
    indices, correct = shared([RUNS[0], (positions.clone(), torch.tensor([False, False, True, False]))])
    assert indices.tolist() == [1, 3, 5, 7]
    assert correct.tolist() == [[True, False, True, True], [False, False, True, False]]


def test_runs_that_share_nothing_have_no_pairs():
    indices, correct = shared([RUNS[0], (torch.tensor([9]), torch.tensor([True]))])
    assert len(indices) == 0
    assert correct.shape == (2, 0)
