"""Intervals over seeds cover what seeds do, and not only what examples do."""

import numpy as np
import pytest

from qra.evaluation.seeds import accuracy_error, bootstrap_error


def trainings(spread, seeds=5, n=400, draw=0):
    """Correctness of networks whose accuracies differ by seed."""
    rng = np.random.default_rng(draw)
    rates = 0.5 + spread * rng.standard_normal((seeds, 1))
    return (rng.random((seeds, n)) < rates).astype(float)


def test_seeds_that_differ_widen_the_interval():
    assert bootstrap_error(trainings(0.2, n=4000)) > 2 * bootstrap_error(trainings(0.0, n=4000))


def test_seeds_that_agree_leave_that_of_the_examples():
    same = np.tile(trainings(0.0, seeds=1), (5, 1))
    expected = np.sqrt(same[0].var() / same.shape[1])
    assert bootstrap_error(same) == pytest.approx(1.416 * np.sqrt(5 / 4) * expected, rel=0.1)


def test_the_same_examples_give_the_same_error():
    assert bootstrap_error(trainings(0.1)) == bootstrap_error(trainings(0.1))


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    inside = [abs(x.mean() - 0.5) < 1.96 * bootstrap_error(x) for x in (trainings(0.05, draw=d) for d in range(200))]
    assert 0.92 < np.mean(inside) <= 1


def test_an_accuracy_over_seeds_has_the_error_of_student():
    assert accuracy_error([0.5] * 5, 100) == pytest.approx(0.05 * 2.776 / 1.96, rel=0.02)
    assert accuracy_error([0.3, 0.4, 0.5, 0.6, 0.7], 100) > accuracy_error([0.49, 0.5, 0.5, 0.5, 0.51], 100)
